//! Variable-length arguments and results of the functions that are called once a row: read in place, written once.
#![allow(unsafe_code)]

use super::report::Failure;
use crate::core::error::Error;
use pgrx::{pg_sys, varlena};

/// Largest plaintext in a `bytea`: its envelope has to fit 1 GB.
pub(crate) const MAX_BYTEA: usize = (1 << 30) - 128;
/// Largest plaintext in a `text`: its armour has to fit 1 GB.
pub(crate) const MAX_TEXT: usize = 767 << 20;

/// One call's arguments.
pub(crate) struct Args(pg_sys::FunctionCallInfo);

impl Args {
    /// # Safety
    /// `fcinfo` must be that of a call in progress.
    pub(crate) unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        Self(fcinfo)
    }

    /// The nth argument, `None` for NULL or when there are fewer.
    pub(crate) fn datum(&self, n: usize) -> Option<pg_sys::Datum> {
        // SAFETY: a call in progress has `nargs` arguments.
        unsafe {
            let fcinfo = &*self.0;
            if n >= usize::try_from(fcinfo.nargs).unwrap_or(0) {
                return None;
            }
            let arg = &*fcinfo.args.as_ptr().add(n);
            (!arg.isnull).then_some(arg.value)
        }
    }

    /// The bytes of the nth argument, which must be of a variable-length type.
    pub(crate) fn bytes(&self, n: usize) -> Option<&[u8]> {
        // SAFETY: the caller names an argument of such a type; it lives as long as the call.
        self.datum(n).map(|datum| unsafe { bytes_of(datum) })
    }

    /// As [`Self::bytes`], refusing what is longer than `limit` before it is decompressed or read from its TOAST table.
    pub(crate) fn bytes_within(&self, n: usize, argument: &str, limit: usize) -> Result<Option<&[u8]>, Failure> {
        let Some(datum) = self.datum(n) else { return Ok(None) };
        // SAFETY: as above.
        unsafe { check_len(datum, argument, limit)? };
        Ok(self.bytes(n))
    }

    /// An argument whose type is an oid.
    pub(crate) fn oid(&self, n: usize) -> Option<pg_sys::Oid> {
        // A by-value type lies in the low bytes of the datum.
        self.datum(n).map(|datum| pg_sys::Oid::from_u32(u32::try_from(datum.value() & 0xffff_ffff).unwrap_or(0)))
    }

    /// A `uuid` argument.
    pub(crate) fn uuid(&self, n: usize) -> Option<[u8; 16]> {
        // SAFETY: the caller names an argument of type uuid, which is passed as a pointer to 16 bytes.
        self.datum(n).map(|datum| unsafe { *datum.cast_mut_ptr::<[u8; 16]>() })
    }

    /// How many arguments the call has.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: as above.
        usize::try_from(unsafe { (*self.0).nargs }).unwrap_or(0)
    }

    /// What is the same for all calls of one place in a query: made at the first, and kept with it.
    pub(crate) fn remembered<T: Copy>(&self, make: impl FnOnce() -> Result<Vec<T>, Failure>) -> Result<&[T], Failure> {
        // SAFETY: as above. `fn_extra` is this function's own, in memory that lives as long as it; it holds as many items as `make` gives at
        // every call, which is the function's to see to.
        unsafe {
            let place = &mut *(*self.0).flinfo;
            if place.fn_extra.is_null() {
                let items = make()?;
                let bytes = size_of::<usize>() + size_of_val(items.as_slice());
                let header = pg_sys::MemoryContextAlloc(place.fn_mcxt, bytes).cast::<usize>();
                header.write(items.len());
                std::ptr::copy_nonoverlapping(items.as_ptr(), header.add(1).cast::<T>(), items.len());
                place.fn_extra = header.cast();
            }
            let header = place.fn_extra.cast::<usize>();
            Ok(std::slice::from_raw_parts(header.add(1).cast::<T>(), *header))
        }
    }

    /// The declared or deduced type of the nth argument.
    pub(crate) fn type_of(&self, n: usize) -> pg_sys::Oid {
        // SAFETY: as above.
        unsafe { pg_sys::get_fn_expr_argtype((*self.0).flinfo, i32::try_from(n).unwrap_or(i32::MAX)) }
    }

    /// What PostgreSQL tells a trigger; `None` when it is not called as one.
    pub(crate) fn trigger(&self) -> Option<&pg_sys::TriggerData> {
        // SAFETY: as above; a context that says that it is trigger data is.
        unsafe {
            let context = (*self.0).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return None;
            }
            // Its first field is the node, and PostgreSQL aligns it as a whole.
            #[allow(clippy::cast_ptr_alignment)]
            context.cast::<pg_sys::TriggerData>().as_ref()
        }
    }

    /// Returns no row from a trigger, which may not set the NULL flag.
    #[allow(clippy::unused_self)] // a way to return, as null() is
    pub(crate) fn no_row(&self) -> pg_sys::Datum {
        pg_sys::Datum::null()
    }

    /// Returns NULL.
    pub(crate) fn null(&self) -> pg_sys::Datum {
        // SAFETY: as above; nothing else points there during the call.
        unsafe { (*self.0).isnull = true };
        pg_sys::Datum::null()
    }
}

/// The contents of a datum, detoasted if need be.
///
/// # Safety
/// A varlena datum; the result lives as long as the memory context of the call.
pub(crate) unsafe fn bytes_of<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: by the caller.
    unsafe {
        let ptr = datum.cast_mut_ptr::<pg_sys::varlena>();
        let plain = !(varlena::varatt_is_1b_e(ptr) || varlena::varatt_is_4b_c(ptr));
        varlena::varlena_to_byte_slice(if plain { ptr } else { pg_sys::pg_detoast_datum_packed(ptr) })
    }
}

/// The first bytes of a datum, without reading all of one that lies in a TOAST table.
///
/// # Safety
/// As for [`bytes_of`].
pub(crate) unsafe fn start_of<'a>(datum: pg_sys::Datum, len: usize) -> &'a [u8] {
    // SAFETY: by the caller.
    unsafe {
        let ptr = datum.cast_mut_ptr::<pg_sys::varlena>();
        let plain = !(varlena::varatt_is_1b_e(ptr) || varlena::varatt_is_4b_c(ptr));
        let slice = if plain { ptr } else { pg_sys::pg_detoast_datum_slice(ptr, 0, i32::try_from(len).unwrap_or(i32::MAX)) };
        let bytes = varlena::varlena_to_byte_slice(slice);
        bytes.get(..len).unwrap_or(bytes)
    }
}

/// # Safety
/// A varlena datum.
pub(crate) unsafe fn check_len(datum: pg_sys::Datum, argument: &str, limit: usize) -> Result<(), Failure> {
    // SAFETY: by the caller. The raw size counts the header.
    let len = unsafe {
        let ptr = datum.cast_mut_ptr::<pg_sys::varlena>();
        if varlena::varatt_is_1b_e(ptr) || varlena::varatt_is_4b_c(ptr) {
            pg_sys::toast_raw_datum_size(datum).saturating_sub(4)
        } else {
            varlena::varsize_any_exhdr(ptr)
        }
    };
    if len <= limit {
        return Ok(());
    }
    Err(Failure::too_large(format!("{argument} of {len} bytes is too long"), format!("It may have {limit} bytes.")))
}

/// A result under construction: a varlena of exactly so many bytes.
pub(crate) struct Output {
    ptr: *mut pg_sys::varlena,
    len: usize,
}

unsafe extern "C" {
    /// Without pgrx's guard against errors, of which it raises none for a size that is allowed when told not to: this is called once a row.
    fn palloc_extended(size: usize, flags: i32) -> *mut std::ffi::c_void;
}

impl Output {
    /// Allocates it in the current memory context.
    pub(crate) fn new(len: usize) -> Result<Self, Failure> {
        let size = len.checked_add(pg_sys::VARHDRSZ).filter(|size| *size < 1 << 30);
        let Some((size, len_word)) = size.and_then(|size| Some((size, i32::try_from(size).ok()?))) else {
            return Err(Failure::too_large(format!("result of {len} bytes is too long"), "A value may have 1 GB."));
        };
        // SAFETY: the size is one that may be asked for; NULL is looked at. The header is written before anything reads it. Zeroed is not
        // needed: every byte is written before the result is given away.
        unsafe {
            let ptr = palloc_extended(size, pg_sys::MCXT_ALLOC_NO_OOM.cast_signed()).cast::<pg_sys::varlena>();
            if ptr.is_null() {
                return Err(Error::OutOfMemory.into());
            }
            varlena::set_varsize_4b(ptr, len_word);
            Ok(Self { ptr, len })
        }
    }

    /// Its bytes, to be written.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated with so many bytes after the header, and nobody else has it yet.
        unsafe {
            let data = varlena::vardata_any(self.ptr).cast_mut().cast::<u8>();
            std::slice::from_raw_parts_mut(data, self.len)
        }
    }

    /// Gives the end back.
    pub(crate) fn truncate(&mut self, len: usize) {
        if let Some(rest) = self.bytes().get_mut(len..) {
            zeroize::Zeroize::zeroize(rest);
            self.len = len;
            // SAFETY: shorter than what was allocated.
            unsafe { varlena::set_varsize_4b(self.ptr, i32::try_from(len + pg_sys::VARHDRSZ).unwrap_or(4)) };
        }
    }

    pub(crate) fn datum(self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.ptr)
    }
}

/// A `bytea[]` of these items.
pub(crate) fn array_of(items: Vec<Vec<u8>>) -> Result<pg_sys::Datum, Failure> {
    let mut datums = Vec::with_capacity(items.len());
    for item in items {
        let mut output = Output::new(item.len())?;
        output.bytes().copy_from_slice(&item);
        datums.push(output.datum());
    }
    let n = i32::try_from(datums.len()).map_err(Failure::internal)?;
    // SAFETY: so many datums of type bytea, whose length, passing and alignment these are. The array is a copy.
    let array = unsafe { pg_sys::construct_array(datums.as_mut_ptr(), n, pg_sys::BYTEAOID, -1, false, pg_sys::TYPALIGN_INT.cast_signed()) };
    Ok(pg_sys::Datum::from(array))
}

/// Defines an SQL function that gets its arguments as they come. `sql/values.sql` and `sql/columns/` declare them.
macro_rules! raw_function {
    ($name:ident, $finfo:ident, $body:path) => {
        #[allow(missing_docs, unreachable_pub)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $finfo() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const INFO: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &INFO
        }

        #[allow(missing_docs, unreachable_pub)]
        #[unsafe(no_mangle)]
        #[pgrx::pg_guard]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            // SAFETY: PostgreSQL calls it with a call in progress.
            let args = unsafe { $crate::pg::varlena::Args::new(fcinfo) };
            match $body(&args) {
                Ok(datum) => datum,
                Err(failure) => failure.raise(),
            }
        }
    };
}
pub(crate) use raw_function;
