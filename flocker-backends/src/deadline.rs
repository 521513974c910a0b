//! Moments in the future that exist however far away they are.

use std::time::Duration;

use tokio::time::Instant;

/// Longer than anybody waits, and short enough to be added to any moment.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Returns the moment after so much time from now, or one in decades where that cannot be told.
pub(crate) fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now + time.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_is_a_moment_after_any_time() {
        assert!(after(Duration::MAX) > after(Duration::from_secs(3600)));
        assert!(after(Duration::ZERO) <= Instant::now());
    }
}
