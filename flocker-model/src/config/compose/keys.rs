//! Which keys of Docker Compose are read, and why others are not.

use super::super::reader::Keys;

pub(super) const TOP: Keys = Keys {
    what: "a Compose file",
    known: &["version", "services", "volumes"],
    unsupported: &[
        (
            "networks",
            "every application is reached by its external ports, on every node",
        ),
        (
            "secrets",
            "give the value of a variable as `{from_file: PATH}` in Flocker's own format",
        ),
        ("configs", "put the file into the image or the volume"),
        ("name", "the names of containers are Flocker's own"),
        ("include", "write all services into one file"),
        ("models", "only services are run"),
    ],
    extensions: true,
};

const CONTAINER: &str = "there is no counterpart; put it into the image";
const NETWORK: &str = "every application is reached by its external ports, on every node";
const RIGHTS: &str = "containers run with the runtime's ordinary rights";

pub(super) const SERVICE: Keys = Keys {
    what: "a service",
    known: &[
        "image",
        "command",
        "environment",
        "ports",
        "links",
        "depends_on",
        "volumes",
        "mem_limit",
        "deploy",
        "cpu_shares",
        "restart",
        "healthcheck",
        "stop_grace_period",
    ],
    unsupported: &[
        (
            "build",
            "images are not built; build it, push it and name it with `image`",
        ),
        ("entrypoint", CONTAINER),
        ("working_dir", CONTAINER),
        ("user", CONTAINER),
        ("stop_signal", CONTAINER),
        ("labels", CONTAINER),
        ("tmpfs", CONTAINER),
        ("shm_size", CONTAINER),
        ("init", CONTAINER),
        ("tty", CONTAINER),
        ("stdin_open", CONTAINER),
        ("logging", CONTAINER),
        ("ulimits", CONTAINER),
        ("sysctls", CONTAINER),
        ("platform", CONTAINER),
        ("pull_policy", CONTAINER),
        ("read_only", CONTAINER),
        ("configs", CONTAINER),
        ("container_name", "the names of containers are Flocker's own"),
        ("hostname", NETWORK),
        ("domainname", NETWORK),
        ("dns", NETWORK),
        ("net", NETWORK),
        ("network_mode", NETWORK),
        ("networks", NETWORK),
        ("extra_hosts", NETWORK),
        ("external_links", NETWORK),
        (
            "expose",
            "a port that other applications use must be published with `ports`",
        ),
        ("volumes_from", "a dataset belongs to one application"),
        ("env_file", "write the variables under `environment`"),
        (
            "secrets",
            "give the value of a variable as `{from_file: PATH}` in Flocker's own format",
        ),
        ("privileged", RIGHTS),
        ("cap_add", RIGHTS),
        ("cap_drop", RIGHTS),
        ("devices", RIGHTS),
        ("security_opt", RIGHTS),
        ("ipc", RIGHTS),
        ("pid", RIGHTS),
        ("extends", "write the service in full, or use an anchor and `<<`"),
        ("profiles", "what runs where is said in the deployment file"),
        ("scale", "an application runs once on each node that names it"),
        ("cpus", "use `cpu_shares`"),
        ("mem_reservation", "use `mem_limit`"),
        ("memswap_limit", "use `mem_limit`"),
    ],
    extensions: true,
};

pub(super) const DEPLOY: Keys = Keys {
    what: "`deploy`",
    known: &["resources"],
    unsupported: &[
        ("replicas", "an application runs once on each node that names it"),
        ("mode", "an application runs once on each node that names it"),
        ("placement", "what runs where is said in the deployment file"),
        ("restart_policy", "use `restart`"),
        ("labels", CONTAINER),
        ("endpoint_mode", NETWORK),
        (
            "update_config",
            "there is one copy of an application on a node, and it is replaced",
        ),
        (
            "rollback_config",
            "there is one copy of an application on a node, and it is replaced",
        ),
    ],
    extensions: true,
};

pub(super) const RESOURCES: Keys = Keys {
    what: "`resources`",
    known: &["limits"],
    unsupported: &[("reservations", "nothing is reserved; use `limits`")],
    extensions: true,
};

pub(super) const RESOURCE_LIMITS: Keys = Keys {
    what: "`limits`",
    known: &["memory"],
    unsupported: &[("cpus", "use `cpu_shares`"), ("pids", "there is no counterpart")],
    extensions: true,
};

pub(super) const DEPENDENCY: Keys = Keys {
    what: "a dependency",
    known: &["condition"],
    unsupported: &[
        ("restart", "an application is restarted only for its own sake"),
        ("required", "every dependency is required"),
    ],
    extensions: true,
};

pub(super) const PORT: Keys = Keys {
    what: "a port",
    known: &["target", "published", "protocol"],
    unsupported: &[
        ("host_ip", "a port is offered on all addresses of every node"),
        ("mode", "a port is offered on every node"),
        ("name", "ports have no names"),
        ("app_protocol", "connections are passed on as they are"),
    ],
    extensions: true,
};

pub(super) const VOLUME: Keys = Keys {
    what: "a volume",
    known: &["type", "source", "target"],
    unsupported: &[
        ("read_only", "an application owns its dataset and writes to it"),
        ("consistency", "there is no counterpart"),
        ("bind", "directories of a host do not move with an application"),
        ("tmpfs", "it would not move with an application"),
        ("volume", "a dataset has no such options"),
    ],
    extensions: true,
};

pub(super) const DECLARED_VOLUME: Keys = Keys {
    what: "a declared volume",
    known: &[],
    unsupported: &[
        ("driver", "Flocker itself keeps the data"),
        ("driver_opts", "Flocker itself keeps the data"),
        ("external", "a dataset belongs to one application"),
        ("labels", "a dataset has no labels"),
        ("name", "a dataset is known by its application"),
    ],
    extensions: true,
};

pub(super) const HEALTH: Keys = Keys {
    what: "a health check",
    known: &["test", "interval", "timeout", "retries", "disable"],
    unsupported: &[
        ("start_period", "use `retries` and `interval`"),
        ("start_interval", "use `interval`"),
    ],
    extensions: true,
};
