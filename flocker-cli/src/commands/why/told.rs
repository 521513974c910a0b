//! What `flocker why` says, as it is written.

use std::fmt::Write as _;
use std::time::Duration;

use flocker_plan::StepId;
use flocker_plan::blocked::seconds;
use serde::Serialize;

/// What is known of one thing, and what to type next.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    pub(super) thing: String,
    pub(super) kind: Kind,
    /// What is wanted, what is seen, and since when where that is known; one sentence each.
    pub(super) known: Vec<String>,
    /// What a step needs.
    pub(super) needs: Vec<Needed>,
    /// What keeps it waiting, or only a person may decide; a sentence and a hint each.
    pub(super) blocked: Vec<Held>,
    /// The steps that would be done about it.
    pub(super) steps: Vec<StepId>,
    /// What to type next.
    pub(super) next: Vec<String>,
    #[serde(skip)]
    pub(super) has_files: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Step,
    Application,
    Dataset,
    Node,
}

#[derive(Debug, Serialize)]
pub(super) struct Needed {
    pub(super) fact: String,
    pub(super) because: String,
    /// Whether it holds; nothing where its node was not seen.
    pub(super) holds: Option<bool>,
    /// The step that makes it.
    pub(super) made_by: Option<StepId>,
}

#[derive(Debug, Serialize)]
pub(super) struct Held {
    pub(super) message: String,
    pub(super) hint: String,
    /// For how long commands of this machine have seen it; nothing for what is looked up in a saved report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seen_for_ms: Option<u64>,
}

impl Answer {
    /// Writes it as people read it.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.thing);
        for sentence in &self.known {
            writeln!(text, "  {sentence}").unwrap_or_default();
        }
        for need in &self.needs {
            let stands = match need.holds {
                Some(true) => "has   ",
                Some(false) => "needs ",
                None => "unseen",
            };
            writeln!(text, "  {stands}  {}: {}", need.fact, need.because).unwrap_or_default();
            if let Some(step) = need.made_by.as_ref().filter(|_| need.holds != Some(true)) {
                writeln!(text, "          made by {step}").unwrap_or_default();
            }
        }
        for held in &self.blocked {
            writeln!(text, "  {}", held.message).unwrap_or_default();
            if let Some(seen_for) = held.seen_for_ms.filter(|seen_for| *seen_for > 0) {
                let seen_for = seconds(Duration::from_millis(seen_for));
                writeln!(text, "     since: {seen_for} at least").unwrap_or_default();
            }
            writeln!(text, "     hint: {}", held.hint).unwrap_or_default();
        }
        if self.kind != Kind::Step {
            if self.has_files && self.steps.is_empty() && self.blocked.is_empty() {
                text.push_str("  nothing is to be done about it\n");
            }
            for step in &self.steps {
                writeln!(text, "  to do: {step}").unwrap_or_default();
            }
        }
        for command in &self.next {
            writeln!(text, "next: {command}").unwrap_or_default();
        }
        text
    }
}
