//! What becomes of a field that the structs of `schema` do not read: those of the Compose specification are read
//! over or refused by name, so that a real compose file can be given to weft and a misspelled field cannot slip
//! through.

/// What to do with a field of a mapping.
pub(super) enum FieldRole {
    /// A field of the struct.
    Read,
    /// Known, and without meaning for networks.
    Ignored,
    /// An error, in words that follow the field's name.
    Refused(String),
}

/// Fields of the Compose specification that have no meaning for weft, by the struct's name.
pub(super) fn ignored_fields(structure: &str) -> &'static [&'static str] {
    match structure {
        "ComposeFile" => &["version", "volumes", "secrets", "configs", "models"],
        "Service" => IGNORED_IN_SERVICES,
        _ => &[],
    }
}

#[rustfmt::skip]
const IGNORED_IN_SERVICES: &[&str] = &[
    "annotations", "attach", "blkio_config", "build", "cap_add", "cap_drop", "cgroup", "cgroup_parent", "command",
    "configs", "cpu_count", "cpu_percent", "cpu_period", "cpu_quota", "cpu_rt_period", "cpu_rt_runtime",
    "cpu_shares", "cpus", "cpuset", "credential_spec", "depends_on", "deploy", "develop", "device_cgroup_rules",
    "devices", "dns", "dns_opt", "dns_search", "domainname", "entrypoint", "env_file", "environment",
    "extra_hosts", "gpus", "group_add", "healthcheck", "image", "init", "ipc", "isolation", "label_file", "labels",
    "logging", "mem_limit", "mem_reservation", "mem_swappiness", "memswap_limit", "models", "oom_kill_disable",
    "oom_score_adj", "pid", "pids_limit", "platform", "post_start", "pre_start", "pre_stop", "privileged",
    "profiles", "provider", "pull_policy", "pull_refresh_after", "read_only", "restart", "runtime", "scale",
    "secrets", "security_opt", "shm_size", "stdin_open", "stop_grace_period", "stop_signal", "storage_opt",
    "sysctls", "tmpfs", "tty", "ulimits", "use_api_socket", "user", "userns_mode", "uts", "volumes",
    "volumes_from", "working_dir",
];

/// Mappings in which Compose has no extension fields, or that are weft's own.
const WITHOUT_EXTENSIONS: &[&str] =
    &["DriverOptions", "ServiceLocation", "Host", "FlowTimeouts", "Peer", "PeerEndpoint"];

/// Fields of the Compose specification that do concern networks and that weft cannot honour: silence would be a
/// network that differs from what the file says.
fn unsupported_field(structure: &str, field: &str) -> Option<&'static str> {
    Some(match (structure, field) {
        ("ComposeFile", "include") => {
            "is not supported: give weft every file with -f, or the output of 'docker compose config'"
        }
        ("Service", "extends") => "is not supported: give weft the output of 'docker compose config'",
        ("Service", "external_links") => "is not supported: declare the other container here and use 'links'",
        ("Service", "mac_address") => {
            "is not supported here: write it at the network, as networks.NAME.mac_address"
        }
        ("ServiceNetwork", "interface_name") => {
            "is not supported: interfaces are eth0, eth1, … in the order of the networks' names"
        }
        ("ServiceNetwork", "link_local_ips" | "driver_opts") => "is not supported",
        ("Ipam", "options") => "is not supported: the address management is weft's own and has no options",
        _ => return None,
    })
}

/// The role of `field` in the struct named `structure`, which reads `fields`.
pub(super) fn field_role(structure: &str, fields: &[&str], field: &str) -> FieldRole {
    if fields.contains(&field) {
        FieldRole::Read
    } else if ignored_fields(structure).contains(&field) {
        FieldRole::Ignored
    } else if let Some(reason) = unsupported_field(structure, field) {
        FieldRole::Refused(reason.to_owned())
    } else if field == "x-weft" {
        FieldRole::Refused("has no meaning here: it belongs to the top level or to a service".to_owned())
    } else if field.starts_with("x-") && !WITHOUT_EXTENSIONS.contains(&structure) {
        // Compose leaves these to whoever understands them.
        FieldRole::Ignored
    } else {
        let also = if ignored_fields(structure).is_empty() {
            ""
        } else {
            " and those of the Compose specification that do not concern networks"
        };
        FieldRole::Refused(format!("is an unknown field; known here: {}{also}", fields.join(", ")))
    }
}
