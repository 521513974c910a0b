//! JSON Schema (draft 2020-12) of the two files, for editors.
//!
//! A schema says what one file may have by itself. That names are defined,
//! that nothing is claimed twice and that no key stands twice is seen only by
//! [`super::load`]; so is that a range of ports begins before it ends. There is no schema for files of Docker Compose: Compose
//! publishes its own, and `load` names every key of it that is not supported.

use serde_json::Value;
use serde_json::json;

use crate::port::Protocol;
use crate::setup::AtBoot;
use crate::setup::RouterKind;
use crate::setup::RuntimeKind;
use crate::setup::VolumeKind;

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Returns the schema of an application file of version 1.
#[must_use]
pub fn application() -> Value {
    json!({
        "$schema": DRAFT,
        "title": "Flocker application file",
        "type": "object",
        "required": ["version", "applications"],
        "additionalProperties": false,
        "patternProperties": {"^x-": true},
        "properties": {
            "version": {"const": 1},
            "applications": {
                "type": "object",
                "propertyNames": {"$ref": "#/$defs/application_name"},
                "additionalProperties": {"$ref": "#/$defs/application"},
            },
        },
        "$defs": {
            "application_name": application_name(),
            "text": {"type": "string", "pattern": "^[^\\u0000]*$"},
            "port_number": {"type": "integer", "minimum": 1, "maximum": 65535},
            "protocol": {"description": "What is spoken on the port; tcp where nothing is said", "enum": Protocol::WORDS},
            "size": {
                "description": "A number of bytes, or one with K, M, G or T, such as 500M or 2.5G",
                "oneOf": [
                    {"type": "number", "exclusiveMinimum": 0, "maximum": i64::MAX},
                    {"type": "string", "pattern": "^[0-9]*[1-9][0-9]*\\.?[0-9]*[KMGTkmgt]?$|^0*\\.[0-9]*[1-9][0-9]*[KMGTkmgt]?$"},
                ],
            },
            "duration": {
                "description": "Seconds, or numbers with h, m, s or ms, such as 1m30s or 500ms",
                "oneOf": [
                    {"type": "integer", "minimum": 0, "maximum": 366 * 24 * 3600},
                    {"type": "string", "pattern": "^[0-9]+$|^([0-9]+(\\.[0-9]*)?(h|m|s|ms|us|µs|ns))+$"},
                ],
            },
            "duration_above_zero": {
                "$ref": "#/$defs/duration",
                "not": {"oneOf": [{"const": 0}, {"type": "string", "pattern": "^[^1-9]*$"}]},
            },
            "application": definition(),
            "health_check": health_check(),
        },
    })
}

/// Returns a text of one line. What `$` means differs: to some who read schemas a line end may follow it.
fn line(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern, "not": {"pattern": "[\\n\\r]"}})
}

fn application_name() -> Value {
    line("^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")
}

fn uuid() -> Value {
    line("^[0-9A-Fa-f]{8}-?([0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}$")
}

fn definition() -> Value {
    json!({
        "type": "object",
        "required": ["image"],
        "additionalProperties": false,
        "properties": {
            "image": {
                "description": "The image, repository[:tag]",
                "type": "string", "maxLength": 4096, "not": {"pattern": "[\\n\\r]"}, "pattern": "^[^:\\s\\u0000-\\u001f-]([^\\s\\u0000-\\u001f]*[^:\\s\\u0000-\\u001f])?$",
            },
            "command_line": {
                "description": "Its arguments; no shell reads them",
                "type": "array", "items": {"$ref": "#/$defs/text"},
            },
            "ports": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["internal", "external"],
                    "additionalProperties": false,
                    "properties": {
                        "internal": {"description": "Where the application listens", "$ref": "#/$defs/port_number"},
                        "external": {"description": "Where every node answers", "$ref": "#/$defs/port_number"},
                        "protocol": {"$ref": "#/$defs/protocol"},
                    },
                },
            },
            "links": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["local_port", "remote_port", "alias"],
                    "additionalProperties": false,
                    "properties": {
                        "local_port": {"$ref": "#/$defs/port_number"},
                        "remote_port": {"description": "The external port of the other application", "$ref": "#/$defs/port_number"},
                        "alias": {"$ref": "#/$defs/application_name"},
                        "protocol": {"$ref": "#/$defs/protocol"},
                    },
                },
            },
            "volume": {
                "type": "object",
                "required": ["mountpoint"],
                "additionalProperties": false,
                "properties": {
                    "mountpoint": {
                        "type": "string",
                        "pattern": "^/[^:\\u0000-\\u001f\\u007f-\\u009f]*[^:/\\u0000-\\u001f\\u007f-\\u009f]/*$",
                        "not": {"pattern": "/\\.\\.?(/|$)"},
                    },
                    "maximum_size": {"$ref": "#/$defs/size"},
                    "dataset_id": {
                        "description": "What the dataset is known by; it follows from the name of the application where nothing is said",
                        "allOf": [uuid()],
                    },
                },
            },
            "environment": environment(),
            "mem_limit": {"$ref": "#/$defs/size"},
            "cpu_shares": {"type": "integer", "minimum": 2, "maximum": 262_144},
            "restart_policy": {
                "type": "object",
                "required": ["name"],
                "additionalProperties": false,
                "properties": {
                    "name": {"enum": ["never", "always", "on-failure"]},
                    "maximum_retry_count": {"type": ["integer", "null"], "minimum": 1, "maximum": u32::MAX},
                },
                "if": {"properties": {"name": {"enum": ["never", "always"]}}},
                "then": {"properties": {"maximum_retry_count": false}},
            },
            "health_check": {
                "description": "How it is seen to serve. Without one it counts as healthy as soon as it runs, and the pause of a move that is reported ends then, not at its first answer",
                "$ref": "#/$defs/health_check",
            },
            "stop_grace": {"$ref": "#/$defs/duration"},
            "depends_on": {"type": "array", "items": {"$ref": "#/$defs/application_name"}},
        },
    })
}

fn environment() -> Value {
    let secret = |key: &str, value: Value| {
        json!({
            "type": "object",
            "required": [key],
            "additionalProperties": false,
            "properties": {key: value},
        })
    };
    let name = json!({"type": "string", "pattern": "^[^=\\u0000]+$"});
    json!({
        "type": ["object", "null"],
        "propertyNames": name,
        "additionalProperties": {
            "oneOf": [
                {"$ref": "#/$defs/text"},
                secret("from_file", json!({"type": "string", "pattern": "^[^\\u0000]+$"})),
                secret("from_environment", name),
            ],
        },
    })
}

fn health_check() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "oneOf": [{"required": ["tcp"]}, {"required": ["http"]}, {"required": ["command"]}],
        "properties": {
            "tcp": {"description": "The internal port that accepts a connection", "$ref": "#/$defs/port_number"},
            "http": {
                "type": "object",
                "required": ["port"],
                "additionalProperties": false,
                "properties": {
                    "port": {"$ref": "#/$defs/port_number"},
                    "path": {"type": "string", "pattern": "^/[!-~]*$"},
                },
            },
            "command": {
                "type": "array",
                "minItems": 1,
                "prefixItems": [{"type": "string", "minLength": 1}],
                "items": {"$ref": "#/$defs/text"},
            },
            "interval": {"$ref": "#/$defs/duration_above_zero"},
            "timeout": {"$ref": "#/$defs/duration_above_zero"},
            "retries": {"type": "integer", "minimum": 1, "maximum": u32::MAX},
        },
    })
}

/// Returns the schema of a deployment file.
#[must_use]
pub fn deployment() -> Value {
    let placed = json!({"type": "array", "uniqueItems": true, "items": application_name()});
    let host = line("^[A-Za-z0-9:][A-Za-z0-9_.:-]{0,252}$");
    let port = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6([0-4][0-9]{3}|5([0-4][0-9]{2}|5([0-2][0-9]|3[0-5]))))";
    json!({
        "$schema": DRAFT,
        "title": "Flocker deployment file",
        "type": "object",
        "required": ["version", "nodes"],
        "additionalProperties": false,
        "patternProperties": {"^x-": true},
        "properties": {
            "version": {"const": 1},
            "nodes": {
                "type": "object",
                "propertyNames": host,
                "additionalProperties": {
                    "oneOf": [
                        placed,
                        {
                            "type": "object",
                            "additionalProperties": false,
                            "not": {"anyOf": [
                                {"required": ["pool", "volumes"], "properties": {"volumes": {"const": "directory"}}},
                                {
                                    "required": ["at_boot", "runtime"],
                                    "properties": {"at_boot": {"const": "start"}, "runtime": {"const": "process"}},
                                },
                            ]},
                            "properties": {
                                "volumes": {"description": "What keeps its datasets", "enum": VolumeKind::WORDS},
                                "pool": {
                                    "description": "The ZFS pool, or a file system of one, that they are in",
                                    "type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_.:/-]{0,199}$",
                                },
                                "runtime": {"description": "What runs its applications", "enum": RuntimeKind::WORDS},
                                "router": {"description": "What answers for its ports", "enum": RouterKind::WORDS},
                                "transfer_ports": {
                                    "description": "On which ports it lets other nodes in with what they send, as in 7800-7899",
                                    "allOf": [line(&format!("^{port}-{port}$"))],
                                },
                                "at_boot": {
                                    "description": "What it does by itself after its machine has started anew",
                                    "enum": AtBoot::WORDS,
                                },
                                "applications": placed,
                                "address": host,
                                "user": line("^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,63}$"),
                                "port": {"type": "integer", "minimum": 1, "maximum": 65535},
                                "id": uuid(),
                            },
                        },
                    ],
                },
            },
        },
    })
}
