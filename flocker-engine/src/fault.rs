//! What went wrong, as far as it can be told to another machine.

use std::error::Error;
use std::fmt;

use flocker_backends::Classify;
use flocker_backends::ErrorClass;
use serde::Deserialize;
use serde::Serialize;

/// How many causes of an error are told on; those beneath are left out.
const MAX_CAUSES: usize = 16;

/// An error of a backend: its sentence, its causes, and whether it may pass by itself.
///
/// It is the same on the node where it arose and on the one that is told.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    message: String,
    may_pass: bool,
    cause: Option<Box<Fault>>,
}

impl Fault {
    /// Takes an error with all its causes.
    #[must_use]
    pub fn of(error: &(impl Error + Classify + 'static)) -> Self {
        Self::chain(error, error.class(), MAX_CAUSES)
    }

    /// Takes an error that does not know its own class.
    #[must_use]
    pub fn with_class(error: &(dyn Error + 'static), class: ErrorClass) -> Self {
        Self::chain(error, class, MAX_CAUSES)
    }

    /// Says something that no error of another crate said.
    #[must_use]
    pub fn new(message: impl Into<String>, class: ErrorClass) -> Self {
        Self {
            message: message.into(),
            may_pass: class == ErrorClass::Transient,
            cause: None,
        }
    }

    fn chain(error: &(dyn Error + 'static), class: ErrorClass, left: usize) -> Self {
        Self {
            message: error.to_string(),
            may_pass: class == ErrorClass::Transient,
            cause: error
                .source()
                .filter(|_| left > 0)
                .map(|source| Box::new(Self::chain(source, class, left - 1))),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fault({:?}", self.message)?;
        if let Some(cause) = &self.cause {
            write!(f, " because of {cause:?}")?;
        }
        f.write_str(")")
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

impl Classify for Fault {
    fn class(&self) -> ErrorClass {
        if self.may_pass {
            ErrorClass::Transient
        } else {
            ErrorClass::Permanent
        }
    }
}

/// Returns an error and its causes on one line, as people read them in a report of several nodes.
#[must_use]
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use flocker_backends::TransportError;

    #[test]
    fn a_fault_keeps_every_cause_and_its_class() {
        let error = TransportError::Unreachable {
            address: "beta".into(),
            source: std::io::Error::other("no route"),
        };
        let fault = Fault::of(&error);
        assert_eq!(one_line(&fault), one_line(&error));
        assert_eq!(fault.class(), ErrorClass::Transient);
        let told: Fault = serde_json::from_str(&serde_json::to_string(&fault).unwrap()).unwrap();
        assert_eq!(told, fault);
    }
}
