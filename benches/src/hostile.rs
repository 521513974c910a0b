//! Hostile configuration: how long a text may be thought about before it is refused.

#[expect(dead_code, reason = "for what each is refused is a matter of tests")]
#[path = "../../flocker-model/tests/budget/hostile_texts.rs"]
mod hostile_texts;

use flocker_model::config::Source;
use flocker_model::config::load;

use crate::figure::Figure;
use crate::figure::Figures;
use crate::figure::Unit;
use crate::figure::processor;
use crate::planning::Effort;

/// How many seconds of a processor a text may take.
const MOST: f64 = 0.1;

/// Measures every hostile text of the tests, and tells of the worst.
pub fn measure(effort: Effort, figures: &mut Figures) {
    let n = match effort {
        Effort::Quick => 1,
        Effort::Full => 5,
    };
    let mut worst: Option<(&str, Figure)> = None;
    for hostile in hostile_texts::texts() {
        let sources = [
            Source::new("hostile.yml", hostile.application),
            Source::new("nodes.yml", hostile.deployment),
        ];
        let samples = (0..n).map(|_| {
            let start = processor();
            drop(std::hint::black_box(load(&sources[0], &sources[1])));
            processor().saturating_sub(start).as_secs_f64()
        });
        let name = "refuse hostile YAML, the worst of all, processor time";
        let figure = Figure::new(name, Unit::Seconds, samples.collect());
        if worst
            .as_ref()
            .is_none_or(|(_, worst)| worst.median < figure.median)
        {
            worst = Some((hostile.name, figure));
        }
    }
    if let Some((name, figure)) = worst {
        figures.note(format!("the worst of hostile YAML is: {name}"));
        figures.add(figure.at_most(MOST));
    }
}
