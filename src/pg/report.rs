//! The one map from what went wrong to SQLSTATE, text, DETAIL and HINT. Texts are stable API; README lists them.

use crate::{core::error::Error, provider::ProviderError};
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys::panic::ErrorReport, spi::SpiError};

/// An error on its way to the client. Holds no key material: nothing that does can be formatted.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    code: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    is_passing: bool,
}

impl Failure {
    fn new(code: PgSqlErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None, hint: None, is_passing: false }
    }

    pub(crate) fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same, known to end by itself.
    pub(crate) fn passing(self) -> Self {
        Self { is_passing: true, ..self }
    }

    /// Whether it ends by itself, however long that takes.
    pub(crate) fn is_passing(&self) -> bool {
        self.is_passing
    }

    /// 22023: an argument that cannot be used. DETAIL says the limit.
    pub(crate) fn bad_argument(message: impl Into<String>, limit: impl Into<String>) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message).detail(limit)
    }

    /// 22004: NULL where a value is needed.
    pub(crate) fn null(argument: &str) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("argument \"{argument}\" must not be null"))
    }

    /// 54000: an argument past a size limit. DETAIL says the limit.
    pub(crate) fn too_large(message: impl Into<String>, limit: impl Into<String>) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, message).detail(limit)
    }

    /// 42704: no such thing.
    pub(crate) fn unknown(what: &str, name: impl std::fmt::Display) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("{what} \"{name}\" does not exist"))
    }

    /// 42710: there is one already.
    pub(crate) fn duplicate(what: &str, name: impl std::fmt::Display) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT, format!("{what} \"{name}\" already exists"))
    }

    /// 55000: the state of things forbids it. HINT names the way out.
    pub(crate) fn state(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message).hint(hint)
    }

    /// 55000: what the values of a column are bound to has changed.
    pub(crate) fn key_changed() -> Self {
        Self::state(
            "the primary key of a protected table, or the type of a key or tenant column, is not what it was",
            "Change it back: the values are bound to the key, and open under no other. If other columns hold the same ones, delete the column's row in kms_wrap.column_relations.",
        )
    }

    /// 42501: only a superuser may.
    pub(crate) fn superuser_only(function: &str) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("must be superuser to call {function}"))
    }

    /// 42501: the role has no such privilege on the policy.
    pub(crate) fn no_right(policy: &str, privilege: &str) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("permission denied for policy \"{policy}\""))
            .detail(format!("It needs the privilege \"{privilege}\", which kms_wrap.kw_grant() gives."))
    }

    /// 42501: only the table's owner may.
    pub(crate) fn not_owner(table: &str) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("must be owner of table {table}"))
    }

    /// 2D000: a procedure that commits, where it can't.
    pub(crate) fn in_block(procedure: &str) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_TERMINATION, format!("{procedure} cannot run inside a transaction block"))
            .detail("It commits after each batch.")
            .hint("CALL it as a statement of its own, without BEGIN.")
    }

    /// 25006: a standby writes nothing.
    pub(crate) fn read_only() -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION, "cannot write wrappers, keys or jobs during recovery")
            .hint("Call it on the primary; a standby opens wrappers.")
    }

    /// 39000: the one error of all that does not open.
    pub(crate) fn does_not_open() -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_EXTERNAL_ROUTINE_INVOCATION_EXCEPTION, "could not open wrapper")
    }

    /// 22021: decrypted bytes that are no text here.
    pub(crate) fn not_text() -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE, "decrypted value is not valid text in the encoding of this database")
            .hint("Read it as bytes: kms_wrap.kw_decrypt() of the decoded envelope.")
    }

    /// 55000: the policy makes nothing new.
    pub(crate) fn policy_disabled(policy: &str) -> Self {
        Self::state(
            format!("policy \"{policy}\" is disabled"),
            "Set is_enabled in kms_wrap.encryption_policies to make wrappers and values with it again.",
        )
    }

    /// 40001: rights, keys or policy changed again and again while they were read.
    pub(crate) fn policy_changed() -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE, "policy or keys changed meanwhile")
            .hint("Try again: another session changed them at the same time.")
    }

    /// 22001: more characters than the column's type allows. Without the value, which an error of PostgreSQL's would show.
    pub(crate) fn too_many_chars(max: usize) -> Self {
        let code = PgSqlErrorCode::ERRCODE_STRING_DATA_RIGHT_TRUNCATION;
        Self::new(code, format!("value too long for a protected column of at most {max} characters"))
    }

    /// 39P01: a trigger function that is not called as its trigger.
    pub(crate) fn trigger_protocol(message: &str) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, message)
    }

    /// Whether something that was named does not exist.
    pub(crate) fn is_unknown(&self) -> bool {
        self.code == PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT
    }

    /// Whether bytes did not open.
    pub(crate) fn is_not_opened(&self) -> bool {
        self.code == PgSqlErrorCode::ERRCODE_EXTERNAL_ROUTINE_INVOCATION_EXCEPTION
    }

    /// 40001: somebody else wrote the wrapper meanwhile.
    pub(crate) fn changed() -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE, "could not rewrap: wrapper changed")
            .hint("Try again: another session rewrapped it at the same time.")
    }

    /// XX000: a bug.
    pub(crate) fn internal(what: impl std::fmt::Display) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("internal error: {what}")).hint("Please report this.")
    }

    /// 58000 or 38000: a provider gave no answer.
    pub(crate) fn provider(name: &str, error: &ProviderError) -> Self {
        let failure = match error {
            ProviderError::Unavailable(_) | ProviderError::Throttled(_) => {
                Self::new(PgSqlErrorCode::ERRCODE_SYSTEM_ERROR, format!("could not reach key provider \"{name}\""))
                    .hint("Check with kms_wrap.kw_health() and try again.")
            }
            ProviderError::Denied(_) | ProviderError::NotFound(_) | ProviderError::Malformed(_) => {
                Self::new(PgSqlErrorCode::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, format!("key provider \"{name}\" refused the request"))
            }
        };
        failure.detail(error.detail())
    }

    /// Ends the call with this error. For functions that pgrx does not wrap.
    pub(crate) fn raise(self) -> ! {
        ErrorReport::from(self).report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not come back")
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Five characters, as a client sees it.
    pub(crate) fn sqlstate(&self) -> String {
        // A code is packed as five 6-bit digits (MAKE_SQLSTATE in elog.h).
        #[allow(clippy::as_conversions)] // the enum's discriminants are those codes
        let packed = self.code as usize;
        (0..5).filter_map(|i| char::from_u32(u32::try_from((packed >> (6 * i)) & 0x3f).ok()? + u32::from(b'0'))).collect()
    }

    /// Message and DETAIL in one line, for `last_error` and kw_verify.
    pub(crate) fn one_line(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{}: {detail}", self.message),
            None => self.message.clone(),
        }
    }

    /// Whether a provider could not be reached.
    pub(crate) fn is_outage(&self) -> bool {
        self.code == PgSqlErrorCode::ERRCODE_SYSTEM_ERROR
    }

    /// Whether trying again later may help.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.code, PgSqlErrorCode::ERRCODE_SYSTEM_ERROR | PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE)
    }
}

impl From<Failure> for ErrorReport {
    fn from(failure: Failure) -> Self {
        let mut report = Self::new(failure.code, failure.message, "kms_wrap");
        if let Some(detail) = failure.detail {
            report = report.set_detail(detail);
        }
        match failure.hint {
            Some(hint) => report.set_hint(hint),
            None => report,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::DoesNotOpen => Self::does_not_open(),
            Error::OutOfMemory => Self::new(PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, "out of memory"),
            Error::DoesNotDecrypt => Self::new(PgSqlErrorCode::ERRCODE_EXTERNAL_ROUTINE_INVOCATION_EXCEPTION, error.to_string()),
            Error::NotAContainer | Error::NotAnEnvelope => {
                Self::new(PgSqlErrorCode::ERRCODE_INVALID_BINARY_REPRESENTATION, error.to_string())
            }
            Error::UnsupportedFormat(_)
            | Error::UnsupportedSuite(_)
            | Error::UnsupportedAlgorithm(_)
            | Error::UnsupportedVersion(_)
            | Error::UnsupportedCipher(_) => Self::state(error.to_string(), "Update kms_wrap to a version that knows it."),
            _ => Self::internal(error),
        }
    }
}

impl From<SpiError> for Failure {
    fn from(error: SpiError) -> Self {
        Self::internal(error)
    }
}

/// An argument that must not be NULL.
pub(crate) fn required<T>(argument: &str, value: Option<T>) -> Result<T, Failure> {
    value.ok_or_else(|| Failure::null(argument))
}

/// A name: not NULL, not empty, at most `limit` characters, no control characters.
pub(crate) fn name<'a>(argument: &str, value: Option<&'a str>, limit: usize) -> Result<&'a str, Failure> {
    let value = required(argument, value)?;
    if value.is_empty() || value.chars().count() > limit || value.chars().any(char::is_control) {
        return Err(Failure::bad_argument(
            format!("invalid value for argument \"{argument}\""),
            format!("It must have 1 to {limit} characters and no control characters."),
        ));
    }
    Ok(value)
}
