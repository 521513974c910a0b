//! The command line of `ssh`: every word of it is ours but the host, the user and the port.

use std::ffi::OsString;
use std::path::Path;

use super::SshOptions;
use super::Target;

/// The longest path of a control socket: what a socket address holds, less what `ssh` adds for a moment.
const LONGEST_SOCKET: usize = 107 - 18;

/// How many characters `%C` stands for.
const HASH: usize = 40;

/// Nothing here may be weaker than what the operator's own configuration says; what comes first counts.
const STRICT: &[&str] = &[
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "EscapeChar=none",
    "LogLevel=ERROR",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "TCPKeepAlive=yes",
];

/// Returns the arguments with which `ssh` starts `command` on a host.
pub(super) fn session(options: &SshOptions, target: &Target, command: &str) -> Vec<OsString> {
    let mut arguments = vec![OsString::from("-T")];
    let mut option = |text: String| arguments.extend(["-o".into(), text.into()]);
    for text in STRICT {
        option((*text).to_owned());
    }
    option(format!(
        "ConnectTimeout={}",
        options.connect_timeout.as_secs().max(1)
    ));
    if let Some(path) = options.control_directory.as_deref().and_then(control_path) {
        option("ControlMaster=auto".into());
        option(format!(
            "ControlPersist={}",
            options.keep_connection.as_secs().max(1)
        ));
        option(format!("ControlPath={path}"));
    } else {
        option("ControlMaster=no".into());
        option("ControlPath=none".into());
    }
    arguments.extend(place(options, target));
    arguments.push(command.into());
    arguments
}

/// Returns the arguments with which `ssh` says what it would do for a host.
pub(super) fn question(options: &SshOptions, target: &Target) -> Vec<OsString> {
    let mut arguments = vec![OsString::from("-G")];
    arguments.extend(place(options, target));
    arguments
}

/// Returns the arguments with which it says what it would do without any configuration, for whatever host.
pub(super) fn question_without_configuration() -> Vec<OsString> {
    ["-G", "-F", "none", "--", "localhost"]
        .map(OsString::from)
        .to_vec()
}

fn place(options: &SshOptions, target: &Target) -> Vec<OsString> {
    let Target { host, user, port } = target;
    let mut arguments: Vec<OsString> = Vec::new();
    if let Some(configuration) = &options.configuration {
        arguments.extend(["-F".into(), configuration.into()]);
    }
    if let Some(user) = user {
        arguments.extend(["-l".into(), user.into()]);
    }
    if let Some(port) = port {
        arguments.extend(["-p".into(), port.to_string().into()]);
    }
    arguments.extend(["--".into(), host.into()]);
    arguments
}

/// Returns where the sockets of shared connections lie, if their paths are short enough and mean what they say.
fn control_path(directory: &Path) -> Option<String> {
    let directory = directory.to_str()?;
    let is_plain = directory.starts_with('/') && !directory.contains(['%', '"', '\\', ' ', '$', '\n']);
    let fits = directory.len() + 1 + HASH <= LONGEST_SOCKET;
    (is_plain && fits).then(|| format!("{directory}/%C"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flocker_model::PortNumber;

    fn words(arguments: Vec<OsString>) -> String {
        let words: Vec<String> = arguments
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        words.join(" ")
    }

    fn target(user: Option<&str>, port: Option<u16>) -> Target {
        Target {
            host: "alpha".into(),
            user: user.map(str::to_owned),
            port: port.and_then(PortNumber::new),
        }
    }

    const ALWAYS: &str = "-T -o BatchMode=yes -o StrictHostKeyChecking=yes -o ForwardAgent=no -o ForwardX11=no \
        -o ClearAllForwardings=yes -o PermitLocalCommand=no -o RemoteCommand=none -o RequestTTY=no -o EscapeChar=none \
        -o LogLevel=ERROR -o ServerAliveInterval=5 -o ServerAliveCountMax=3 -o TCPKeepAlive=yes -o ConnectTimeout=10";

    #[test]
    fn the_command_line_is_this_one() {
        let mut options = SshOptions::new();
        assert_eq!(
            words(session(&options, &target(None, None), "COMMAND")),
            format!("{ALWAYS} -o ControlMaster=no -o ControlPath=none -- alpha COMMAND")
        );
        options.control_directory = Some("/state/ssh".into());
        options.configuration = Some("/etc/my config".into());
        assert_eq!(
            words(session(
                &options,
                &target(Some("operator"), Some(2222)),
                "COMMAND"
            )),
            format!(
                "{ALWAYS} -o ControlMaster=auto -o ControlPersist=60 -o ControlPath=/state/ssh/%C \
                 -F /etc/my config -l operator -p 2222 -- alpha COMMAND"
            )
        );
        assert_eq!(
            words(question(&options, &target(Some("operator"), None))),
            "-G -F /etc/my config -l operator -- alpha"
        );
    }

    #[test]
    fn nothing_weakens_the_check_of_host_keys() {
        let all = words(session(&SshOptions::new(), &target(None, None), "COMMAND"));
        for weak in [
            "StrictHostKeyChecking=no",
            "accept-new",
            "StrictHostKeyChecking=off",
            "UserKnownHostsFile",
        ] {
            assert!(!all.contains(weak), "{all}");
        }
    }

    #[test]
    fn connections_are_shared_only_where_their_sockets_have_room() {
        assert_eq!(control_path(Path::new("/s")).as_deref(), Some("/s/%C"));
        assert!(control_path(Path::new(&format!("/{}", "d".repeat(47)))).is_some());
        assert_eq!(control_path(Path::new(&format!("/{}", "d".repeat(48)))), None);
        assert_eq!(control_path(Path::new("/100%")), None);
        assert_eq!(control_path(Path::new("relative")), None);
    }
}
