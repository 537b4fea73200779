//! What the answers of a PKCS#11 module mean: for the caller, for the session, and for the bytes of one item.

use super::ProviderError;
use cryptoki::{
    context::Function,
    error::{Error, RvError},
};

/// Why a step against a token failed.
pub enum Fault {
    /// Something of ours: what was looked for is not there or not fit.
    Ours(ProviderError),
    /// What the module answered.
    Token(Error),
}

impl From<ProviderError> for Fault {
    fn from(error: ProviderError) -> Self {
        Self::Ours(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Token(error)
    }
}

impl Fault {
    /// Whether session and handles are, or may be, of the past, so that the same step may work in a new session: the token was taken out and
    /// put back, another user of the module has logged out or ended it, a device has lost its connection, a key was replaced.
    #[must_use]
    pub const fn is_stale(&self) -> bool {
        let Self::Token(Error::Pkcs11(code, _)) = self else { return false };
        matches!(
            code,
            RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::UserNotLoggedIn
                | RvError::KeyHandleInvalid
                | RvError::ObjectHandleInvalid
                | RvError::CryptokiNotInitialized
                | RvError::SlotIdInvalid
                | RvError::TokenNotPresent
                | RvError::TokenNotRecognized
                | RvError::DeviceRemoved
                | RvError::DeviceError
                | RvError::OperationActive
                | RvError::OperationNotInitialized
        )
    }

    /// Whether the module has to be initialised again.
    #[must_use]
    pub const fn is_not_initialized(&self) -> bool {
        matches!(self, Self::Token(Error::Pkcs11(RvError::CryptokiNotInitialized, _)))
    }

    /// What a failed decryption says about the bytes that were to be decrypted.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        // Only the step that sees the bytes can reject them.
        let Self::Token(Error::Pkcs11(code, Function::Decrypt)) = self else { return Verdict::Failure };
        match code {
            RvError::EncryptedDataInvalid
            | RvError::EncryptedDataLenRange
            | RvError::DataInvalid
            | RvError::DataLenRange
            | RvError::SignatureInvalid => Verdict::Rejected,
            // It may be about the bytes.
            RvError::DeviceError => Verdict::Unclear,
            // It is about session, key or token.
            _ if self.is_stale() => Verdict::Failure,
            // SoftHSM says CKR_GENERAL_ERROR of bytes that do not verify, Kryoptic CKR_DEVICE_ERROR for RSA, and any module may have a code of
            // its own; CKR_AEAD_DECRYPT_FAILED of PKCS#11 3.0 is among those that the crate has no name for.
            _ => Verdict::Unclear,
        }
    }

    /// The error for the caller. `place` says where, as the start of a sentence; `key` is the key that was asked for.
    #[must_use]
    pub fn explain(self, place: &str, key: Option<&str>) -> ProviderError {
        match self {
            Self::Ours(error) => error,
            Self::Token(Error::Pkcs11(code, function)) => {
                let asked = key.map(|key| format!(" for key \"{key}\"")).unwrap_or_default();
                class(code)(format!("{place} answered {} to C_{function:?}{asked}.", name(code)))
            }
            Self::Token(Error::LibraryLoading(_) | Error::MissingSymbol(_)) => {
                ProviderError::Unavailable(format!("{place} cannot be reached: the module could not be loaded."))
            }
            Self::Token(Error::NullFunctionPointer) => ProviderError::Denied(format!("{place} lacks a function that is needed.")),
            Self::Token(_) => ProviderError::Malformed(format!("{place} answered what PKCS#11 does not allow.")),
        }
    }
}

/// What is known of bytes that did not decrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The token has looked at them and rejects them.
    Rejected,
    /// They may be bad, or the token may be.
    Unclear,
    /// The token has failed.
    Failure,
}

/// Whether a login failed for the PIN's sake, so that trying it again would count against the token's limit.
#[must_use]
pub const fn blames_pin(code: RvError) -> bool {
    matches!(
        code,
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange | RvError::PinExpired | RvError::PinLocked | RvError::PinTooWeak
    )
}

const fn class(code: RvError) -> fn(String) -> ProviderError {
    match code {
        RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid => ProviderError::NotFound,
        RvError::SessionCount => ProviderError::Throttled,
        // SoftHSM says CKR_ARGUMENTS_BAD of parameters that it does not have.
        RvError::ArgumentsBad
        | RvError::KeyFunctionNotPermitted
        | RvError::KeyTypeInconsistent
        | RvError::KeySizeRange
        | RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::FunctionNotSupported
        | RvError::FunctionRejected
        | RvError::NeedToCreateThreads
        | RvError::CantLock
        | RvError::UserPinNotInitialized
        | RvError::UserTypeInvalid
        | RvError::UserAnotherAlreadyLoggedIn
        | RvError::UserTooManyTypes
        | RvError::ActionProhibited
        | RvError::AttributeSensitive
        | RvError::AttributeTypeInvalid
        | RvError::AttributeValueInvalid
        | RvError::TemplateIncomplete
        | RvError::TemplateInconsistent => ProviderError::Denied,
        // What it says of bytes, here of some that it has just made itself.
        RvError::EncryptedDataInvalid
        | RvError::EncryptedDataLenRange
        | RvError::DataInvalid
        | RvError::DataLenRange
        | RvError::SignatureInvalid => ProviderError::Malformed,
        _ => ProviderError::Unavailable,
    }
}

/// The code by its name, which manuals of modules list; one that has none as a number.
fn name(code: RvError) -> String {
    match code {
        RvError::VendorDefined(code) => format!("vendor code {code:#010x}"),
        RvError::UnknownErrorCode(code) => format!("code {code:#010x}"),
        named => {
            let mut text = "CKR".to_owned();
            for letter in format!("{named:?}").chars() {
                if letter.is_ascii_uppercase() {
                    text.push('_');
                }
                text.push(letter.to_ascii_uppercase());
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(code: RvError, function: Function) -> Fault {
        Fault::Token(Error::Pkcs11(code, function))
    }

    #[test]
    fn a_device_that_fails_is_not_a_tag_that_does_not_verify() {
        for code in [RvError::DeviceRemoved, RvError::TokenNotPresent, RvError::SessionHandleInvalid, RvError::UserNotLoggedIn] {
            assert_eq!(token(code, Function::Decrypt).verdict(), Verdict::Failure);
        }
        assert_eq!(token(RvError::EncryptedDataInvalid, Function::Decrypt).verdict(), Verdict::Rejected);
        for code in [
            RvError::GeneralError,
            RvError::DeviceError,
            RvError::DeviceMemory,
            RvError::WrappedKeyInvalid,
            RvError::UnknownErrorCode(0x35),
        ] {
            assert_eq!(token(code, Function::Decrypt).verdict(), Verdict::Unclear);
        }
        assert_eq!(token(RvError::GeneralError, Function::DecryptInit).verdict(), Verdict::Failure);
        assert_eq!(token(RvError::EncryptedDataInvalid, Function::FindObjects).verdict(), Verdict::Failure);
    }

    #[test]
    fn codes_have_the_names_of_manuals_and_a_class() {
        let text = |code| token(code, Function::Decrypt).explain("PKCS#11 token \"t\"", Some("k"));
        assert_eq!(
            text(RvError::KeyHandleInvalid),
            ProviderError::NotFound("PKCS#11 token \"t\" answered CKR_KEY_HANDLE_INVALID to C_Decrypt for key \"k\".".to_owned())
        );
        assert_eq!(text(RvError::DeviceError).class(), "unavailable");
        assert_eq!(text(RvError::KeyFunctionNotPermitted).class(), "denied");
        assert_eq!(text(RvError::SessionCount).class(), "throttled");
        assert!(text(RvError::VendorDefined(0x8000_0001)).detail().contains("vendor code 0x80000001"));
    }

    #[test]
    fn what_may_work_in_a_new_session_is_tried_in_one() {
        for code in [RvError::SessionHandleInvalid, RvError::UserNotLoggedIn, RvError::KeyHandleInvalid, RvError::CryptokiNotInitialized] {
            assert!(token(code, Function::EncryptInit).is_stale());
        }
        for code in [RvError::PinIncorrect, RvError::GeneralError, RvError::MechanismInvalid] {
            assert!(!token(code, Function::EncryptInit).is_stale());
        }
        assert!(!Fault::Ours(ProviderError::NotFound(String::new())).is_stale());
    }
}
