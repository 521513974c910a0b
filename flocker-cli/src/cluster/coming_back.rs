//! What a person has to see to who takes a node for lost.

use flocker_model::AtBoot;
use flocker_model::Member;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use flocker_model::RuntimeKind;

/// Says what is to be seen to where a lost node asks nobody, or may ask nobody, when its machine starts anew.
///
/// Who takes a line or a node out of the files does not tell the node: what it was told last holds. So only what the
/// files say can keep this from being said, never what they leave out.
pub(super) fn of(name: &NodeName, address: Option<&NodeAddress>, member: Option<&Member>) -> Option<String> {
    if let Some(NodeAddress::Local { .. }) = address {
        return None;
    }
    let setup = member.map(|member| &member.setup);
    if setup.and_then(|setup| setup.runtime) == Some(RuntimeKind::Process) {
        return None;
    }
    let start = match setup.and_then(|setup| setup.at_boot) {
        Some(AtBoot::Wait) => return None,
        Some(AtBoot::Start) => format!("{name} has `at_boot: start`: when"),
        None => format!("{name} may have been asked to start by itself, with `at_boot: start`: if so, when"),
    };
    Some(format!(
        "{start} its machine comes back, it starts its applications on its old data by itself, whoever owns the data by then; keep it off, or cut its network until they are stopped there"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_files_say_keeps_the_warning_from_being_given() {
        let name: NodeName = "alpha".parse().unwrap();
        let said = |at_boot, runtime| {
            let mut member = Member::empty();
            member.setup.at_boot = at_boot;
            member.setup.runtime = runtime;
            of(&name, None, Some(&member))
        };
        let has = said(Some(AtBoot::Start), None).unwrap();
        assert!(
            has.starts_with("alpha has `at_boot: start`: when its machine comes back"),
            "{has}"
        );
        assert_eq!(said(Some(AtBoot::Wait), None), None);
        assert_eq!(said(None, Some(RuntimeKind::Process)), None);
        // The line was taken out of the files, or the node was: it was not told.
        let maybe = said(None, Some(RuntimeKind::Docker));
        assert!(
            maybe
                .as_ref()
                .is_some_and(|maybe| maybe.contains("may have been asked to start by itself"))
        );
        assert_eq!(of(&name, None, None), maybe);
        // What is this machine's does what its person does.
        let here = NodeAddress::Local {
            directory: "/x".into(),
        };
        assert_eq!(of(&name, Some(&here), None), None);
    }
}
