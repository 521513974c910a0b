//! What an application finds in its environment.

use std::ops::Index;
use std::sync::Arc;

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
/// applications: in order, side by side, they take a quarter of the memory,
/// and applications with the same variables share them. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Environment(Option<Arc<Vec<Variable>>>);

type Variable = (Box<str>, EnvironmentValue);

impl Environment {
    /// Returns an environment without variables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn variables(&self) -> &[Variable] {
        self.0.as_ref().map_or(&[], |variables| variables)
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.variables()
            .binary_search_by(|(other, _)| other.as_ref().cmp(name))
    }

    /// Sets a variable, and returns the value that it had before.
    pub fn insert(&mut self, name: Box<str>, value: EnvironmentValue) -> Option<EnvironmentValue> {
        let found = self.find(&name);
        let variables = Arc::make_mut(self.0.get_or_insert_default());
        match found {
            Ok(position) => Some(std::mem::replace(&mut variables[position].1, value)),
            Err(position) => {
                variables.reserve_exact(1);
                variables.insert(position, (name, value));
                None
            }
        }
    }

    /// Returns the value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&EnvironmentValue> {
        self.find(name).ok().map(|position| &self.variables()[position].1)
    }

    /// Returns the variables, in order of name.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        self.into_iter()
    }

    /// Returns the values, in order of name.
    pub fn values(&self) -> impl Iterator<Item = &EnvironmentValue> {
        self.variables().iter().map(|(_, value)| value)
    }

    /// Returns how many variables there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.variables().len()
    }

    /// Says whether there are no variables.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.variables().is_empty()
    }

    /// Says whether two environments surely have the same variables. Secrets are never compared.
    pub(crate) fn is_surely(&self, other: &Self) -> bool {
        let same = |(one, other): (&Variable, &Variable)| {
            one.0 == other.0
                && match (&one.1, &other.1) {
                    (EnvironmentValue::Plain(one), EnvironmentValue::Plain(other)) => one == other,
                    (EnvironmentValue::Secret(_), _) | (_, EnvironmentValue::Secret(_)) => false,
                }
        };
        let (own, theirs) = (self.variables(), other.variables());
        own.len() == theirs.len() && own.iter().zip(theirs).all(same)
    }
}

impl FromIterator<(Box<str>, EnvironmentValue)> for Environment {
    /// Of several values of one variable, the last counts.
    fn from_iter<I: IntoIterator<Item = (Box<str>, EnvironmentValue)>>(variables: I) -> Self {
        let mut environment = Self::new();
        environment.extend(variables);
        environment
    }
}

impl Extend<(Box<str>, EnvironmentValue)> for Environment {
    /// Of several values of one variable, the last counts.
    ///
    /// Many at once cost little more than to sort them; one by one, each moves all that come after it.
    fn extend<I: IntoIterator<Item = (Box<str>, EnvironmentValue)>>(&mut self, added: I) {
        let mut added = added.into_iter().peekable();
        if added.peek().is_none() {
            return;
        }
        let variables = Arc::make_mut(self.0.get_or_insert_default());
        variables.extend(added);
        // Later ones first among equals, of which the first is kept.
        variables.reverse();
        variables.sort_by(|one, other| one.0.cmp(&other.0));
        variables.dedup_by(|later, kept| later.0 == kept.0);
        variables.shrink_to_fit();
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
pub struct Iter<'a>(std::slice::Iter<'a, Variable>);

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
        Iter(self.variables().iter())
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
        let added = [("D", "5"), ("A", "6"), ("D", "7")].map(|(name, value)| (name.into(), plain(value)));
        environment.extend(added);
        let values: Vec<String> = environment
            .values()
            .filter_map(|value| shown(Some(value)))
            .collect();
        assert_eq!(values, ["6", "3", "4", "7"]);
        environment.extend([]);
        assert_eq!(environment.len(), 4);
    }

    #[test]
    fn what_is_shared_is_changed_in_one_place_only() {
        let plain = |text: &str| EnvironmentValue::Plain(text.into());
        let mut one: Environment = [("A".into(), plain("1"))].into_iter().collect();
        let other = one.clone();
        assert!(one.is_surely(&other));
        one.insert("A".into(), plain("2"));
        assert!(!one.is_surely(&other));
        assert!(matches!(&other["A"], EnvironmentValue::Plain(text) if **text == *"1"));
    }

    #[test]
    fn secrets_are_never_taken_for_the_same() {
        let secret = || EnvironmentValue::Secret(Secret::new("x"));
        let one: Environment = [("A".into(), secret())].into_iter().collect();
        assert!(!one.is_surely(&one.clone()));
        assert!(Environment::new().is_surely(&Environment::new()));
    }
}
