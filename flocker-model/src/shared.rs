//! Equal values, kept once: a cluster has many applications and few images, mountpoints and environments.

use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher as _;
use std::sync::Arc;

use crate::application::Application;
use crate::environment::Environment;
use crate::environment::EnvironmentValue;

/// What was met last under each hash.
///
/// Two different values that fall on one place push each other out: then a
/// value is kept more than once, and nothing else is wrong.
struct Met<T>(Vec<Option<T>>);

impl<T: Clone> Met<T> {
    fn new(n_places: usize) -> Self {
        Self(vec![None; n_places])
    }

    /// Puts the equal value that was met before in the place of `value`, or remembers it.
    fn share(&mut self, value: &mut T, hash: u64, is_equal: impl Fn(&T, &T) -> bool) {
        let place = usize::try_from(hash & 0xffff_ffff).unwrap_or(0) & (self.0.len() - 1);
        match &self.0[place] {
            Some(met) if is_equal(met, value) => *value = met.clone(),
            Some(_) | None => self.0[place] = Some(value.clone()),
        }
    }
}

/// Makes equal parts of definitions stand in memory once.
pub(crate) struct Shared {
    images: Met<crate::application::Image>,
    mountpoints: Met<Arc<str>>,
    environments: Met<Environment>,
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Shared {
    /// Makes room for what so many applications have different, as far as that helps.
    pub(crate) fn new(n_applications: usize) -> Self {
        let n_places = n_applications.next_power_of_two().clamp(1, 1 << 18);
        Self {
            images: Met::new(n_places),
            mountpoints: Met::new(n_places.min(1 << 12)),
            environments: Met::new(n_places),
        }
    }

    /// Gives a definition the parts of those before it that are equal to its own, and cuts what it does not fill.
    pub(crate) fn compact(&mut self, application: &mut Application) {
        let own = hash(application.image.as_str());
        self.images.share(&mut application.image, own, PartialEq::eq);
        if let Some(volume) = &mut application.volume {
            let own = hash(&volume.mountpoint);
            self.mountpoints.share(&mut volume.mountpoint, own, PartialEq::eq);
        }
        if !application.environment.is_empty() && !application.has_secrets() {
            let own = application.environment.iter().map(|(name, value)| match value {
                EnvironmentValue::Plain(text) => hash((name, text)),
                EnvironmentValue::Secret(_) => 0,
            });
            let own = own.fold(0, |all: u64, one| all.rotate_left(1) ^ one);
            self.environments
                .share(&mut application.environment, own, Environment::is_surely);
        }
        application.command_line.shrink_to_fit();
        application.ports.shrink_to_fit();
        application.links.shrink_to_fit();
        application.depends_on.shrink_to_fit();
    }
}
