//! Configuration files: text to a deployment, both files, every check.

use flocker_model::config::SecretSources;
use flocker_model::config::Source;
use flocker_model::config::load;
use flocker_model::config::marshal;

use crate::cluster::Change;
use crate::cluster::Shape;
use crate::figure::Figure;
use crate::figure::Figures;
use crate::figure::Unit;
use crate::planning::Effort;

/// Measures files of a hundred applications, and of about as many as the door lets in: it reads 2.5 MiB at most.
///
/// # Panics
///
/// Where a printed deployment cannot be read.
pub fn measure(effort: Effort, figures: &mut Figures) {
    let mut shapes = vec![(Shape::new(10, 100), 15)];
    if effort == Effort::Full {
        shapes.push((Shape::new(1000, 10_000), 5));
    }
    for (shape, n) in shapes {
        let printed = marshal::print(&shape.desired(Change::Settled), &SecretSources::default());
        let n_bytes = printed.application.len() + printed.deployment.len();
        let application = Source::new("application.yml", printed.application);
        let deployment = Source::new("deployment.yml", printed.deployment);
        let read = || {
            let loaded = load(&application, &deployment).expect("what was printed can be read");
            loaded
                .resolve(|source| Err(format!("there is no {source}")))
                .expect("there are no secrets")
        };
        let name = format!(
            "parse {} applications, {n_bytes} bytes of YAML",
            shape.n_applications
        );
        let figure = Figure::time(name, n, read);
        let per_byte = figure.median / f64::from(u32::try_from(n_bytes).unwrap_or(u32::MAX));
        figures.note(format!("parsing read {:.1} MB/s", 1e-6 / per_byte));
        figures.add(Figure {
            unit: Unit::Seconds,
            ..figure
        });
    }
}
