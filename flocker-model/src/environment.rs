//! What an application finds in its environment.

use std::ops::Index;

use crate::secret::Secret;

/// A value in an application's environment.
#[derive(Clone, Debug)]
pub enum EnvironmentValue {
    /// A value that may be shown.
    Plain(Box<str>),
    /// A value that came from a file or from the operator's environment, and is never shown.
    Secret(Secret),
}

/// The variables of an application, in order of name.
///
/// It is used like a map. An application has few variables and a cluster many
/// applications: in order, side by side, they take a quarter of the memory.
#[derive(Clone, Debug, Default)]
pub struct Environment(Vec<(Box<str>, EnvironmentValue)>);

impl Environment {
    /// Returns an environment without variables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.as_ref().cmp(name))
    }

    /// Sets a variable, and returns the value that it had before.
    pub fn insert(&mut self, name: Box<str>, value: EnvironmentValue) -> Option<EnvironmentValue> {
        match self.find(&name) {
            Ok(position) => Some(std::mem::replace(&mut self.0[position].1, value)),
            Err(position) => {
                self.0.reserve_exact(1);
                self.0.insert(position, (name, value));
                None
            }
        }
    }

    /// Returns the value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&EnvironmentValue> {
        self.find(name).ok().map(|position| &self.0[position].1)
    }

    /// Returns the variables, in order of name.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        self.into_iter()
    }

    /// Returns the values, in order of name.
    pub fn values(&self) -> impl Iterator<Item = &EnvironmentValue> {
        self.0.iter().map(|(_, value)| value)
    }

    /// Returns how many variables there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Says whether there are no variables.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Box<str>, EnvironmentValue)> for Environment {
    /// Of several values of one variable, the last counts.
    fn from_iter<I: IntoIterator<Item = (Box<str>, EnvironmentValue)>>(variables: I) -> Self {
        let mut environment = Self::new();
        for (name, value) in variables {
            environment.insert(name, value);
        }
        environment
    }
}

impl Index<&str> for Environment {
    type Output = EnvironmentValue;

    /// # Panics
    ///
    /// Where there is no such variable.
    fn index(&self, name: &str) -> &EnvironmentValue {
        self.get(name).expect("no variable of this name")
    }
}

/// The variables of an environment, in order of name.
#[derive(Clone, Debug)]
pub struct Iter<'a>(std::slice::Iter<'a, (Box<str>, EnvironmentValue)>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a EnvironmentValue);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(name, value)| (name.as_ref(), value))
    }
}

impl<'a> IntoIterator for &'a Environment {
    type Item = (&'a str, &'a EnvironmentValue);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        Iter(self.0.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_used_like_a_map() {
        let plain = |text: &str| EnvironmentValue::Plain(text.into());
        let shown = |value: Option<&EnvironmentValue>| match value {
            Some(EnvironmentValue::Plain(text)) => Some(text.to_string()),
            Some(EnvironmentValue::Secret(_)) | None => None,
        };
        let mut environment: Environment = [("B".into(), plain("1")), ("A".into(), plain("2"))]
            .into_iter()
            .collect();
        assert_eq!(
            shown(environment.insert("B".into(), plain("3")).as_ref()).unwrap(),
            "1"
        );
        assert!(environment.insert("C".into(), plain("4")).is_none());
        let names: Vec<&str> = environment.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["A", "B", "C"]);
        assert_eq!(environment.len(), 3);
        assert_eq!(shown(environment.get("B")).unwrap(), "3");
        assert!(environment.get("D").is_none());
    }
}
