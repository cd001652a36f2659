"""The GPU and host dashboard: does the model run where it should, and has its machine room to spare?

GPU numbers are those of NVIDIA's dcgm-exporter, those of the machine are node_exporter's: neither is part of Vigil.
"""

from grafana.boards.board import Board, servers_and_models, variable
from grafana.boards.views import BOTH, GREEN, JUDGE, ORANGE, RED, SCRAPED, WINDOW, View

GPU = 'gpu=~"$gpu"'
NODE = 'instance=~"$host"'
NO_GPU, NO_NODE = "no dcgm-exporter is scraped", "no node_exporter is scraped"
CARD = "{{Hostname}} GPU {{gpu}}"
DISKS = f'{NODE},fstype!~"tmpfs|overlay|squashfs|ramfs"'


def host() -> Board:
    """Return the dashboard."""
    rows = {
        "Does the model run where it should?": _devices(),
        "The GPUs": _cards(),
        "The server processes": _processes(),
        "The machines": _machines(),
    }
    variables = (
        *servers_and_models(),
        variable("gpu", "GPU", "label_values(DCGM_FI_DEV_GPU_UTIL, gpu)"),
        variable("host", "Machine", "label_values(node_uname_info, instance)"),
    )
    return Board("vigil-host", "Vigil / GPU and host", rows, variables)


def _devices() -> tuple[View, ...]:
    live = f'vigil_model_info{{stage="live",{BOTH}}}'
    same = f'label_replace({live}, "requested_provider", "$1", "provider", "(.+)")'
    other = f"count({live} unless on (instance, model, version, requested_provider) {same})"
    return (
        View(
            "On another device than asked",
            "Live releases that do not run on the provider that was asked for: a GPU that fell back to the CPU.",
            "short",
            ((f"{other} or 0 * count({live})", "elsewhere"),),
            kind="stat",
            steps=JUDGE,
            words={"0": ("none", GREEN)},
            none="nothing is live",
        ),
        View(
            "Asked for and got",
            "The execution provider of ONNX Runtime that each live release was asked to run on, and does.",
            "string",
            ((f"max by (instance, model, version, requested_provider, provider) ({live})", ""),),
            kind="table",
            width=18,
            none="nothing is live",
        ),
    )


def _cards() -> tuple[View, ...]:
    return (*_room_on_cards(), *_state_of_cards())


def _room_on_cards() -> tuple[View, ...]:
    used, free = f"DCGM_FI_DEV_FB_USED{{{GPU}}}", f"DCGM_FI_DEV_FB_FREE{{{GPU}}}"
    return (
        View(
            "Utilisation",
            "Share of the time in which any kernel ran; it says little of how full the GPU was.",
            "percent",
            ((f"DCGM_FI_DEV_GPU_UTIL{{{GPU}}}", CARD),),
            highest=100,
            none=NO_GPU,
        ),
        View(
            "Tensor cores",
            "Share of the cycles in which the tensor pipe was active; data centre GPUs only.",
            "percentunit",
            ((f"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{{{GPU}}}", CARD),),
            highest=1,
            none=NO_GPU,
        ),
        View(
            "Memory",
            "Share of the GPU's memory in use, by whatever runs on it; over 90 % the next release may not load.",
            "percentunit",
            ((f"{used} / ({used} + {free})", CARD),),
            steps=((GREEN, None), (RED, 0.9)),
            highest=1,
            none=NO_GPU,
        ),
    )


def _state_of_cards() -> tuple[View, ...]:
    return (
        View(
            "Xid errors",
            "The last error the driver reported, by number; 0 is none. NVIDIA's list says what each means.",
            "none",
            ((f"max by (Hostname, gpu) (DCGM_FI_DEV_XID_ERRORS{{{GPU}}})", CARD),),
            kind="stat",
            steps=JUDGE,
            words={"0": ("none", GREEN)},
            none=NO_GPU,
        ),
        View(
            "Power",
            "Watts drawn; at the limit of the card it lowers its clocks.",
            "watt",
            ((f"DCGM_FI_DEV_POWER_USAGE{{{GPU}}}", CARD),),
            width=8,
            none=NO_GPU,
        ),
        View(
            "Temperature",
            "Of the GPU; near its limit it lowers its clocks.",
            "celsius",
            ((f"DCGM_FI_DEV_GPU_TEMP{{{GPU}}}", CARD),),
            width=8,
            none=NO_GPU,
        ),
        View(
            "Clock",
            "Of the multiprocessors: a fall under load is heat or a power limit.",
            "rotmhz",
            ((f"DCGM_FI_DEV_SM_CLOCK{{{GPU}}}", CARD),),
            width=8,
            none=NO_GPU,
        ),
    )


def _processes() -> tuple[View, ...]:
    of = "{{instance}}"
    files = f"max by (instance) (process_open_fds{{{SCRAPED}}} / process_max_fds{{{SCRAPED}}})"
    return (
        View(
            "Cores used",
            "By all workers of a server, one being one core kept busy.",
            "short",
            ((f"sum by (instance) (rate(process_cpu_seconds_total{{{SCRAPED}}}[{WINDOW}]))", of),),
            none="no server",
        ),
        View(
            "Memory of the servers",
            "Resident memory of all workers; a steady rise is a leak.",
            "bytes",
            ((f"sum by (instance) (process_resident_memory_bytes{{{SCRAPED}}})", of),),
            none="no server",
        ),
        View(
            "Open files",
            "Share of the files that the workers may have open; at 1 connections are refused.",
            "percentunit",
            ((files, of),),
            steps=((GREEN, None), (RED, 0.8)),
            none="no server",
        ),
        View(
            "Connections",
            "Open connections of clients, by server, and those refused or cut off by a limit, per second.",
            "short",
            (
                (f"sum by (instance) (vigil_connections{{{SCRAPED}}})", of),
                (
                    f"sum by (reason) (rate(vigil_connections_rejected_total{{{SCRAPED}}}[{WINDOW}]))",
                    "refused {{reason}}",
                ),
            ),
            none="no server",
        ),
    )


def _machines() -> tuple[View, ...]:
    return (*_cores_and_memory(), *_disks_and_network())


def _cores_and_memory() -> tuple[View, ...]:
    of = "{{instance}}"
    cores = f'count by (instance) (rate(node_cpu_seconds_total{{mode="idle",{NODE}}}[{WINDOW}]))'
    return (
        View(
            "CPU",
            "Share of all cores in use.",
            "percentunit",
            ((f'1 - avg by (instance) (rate(node_cpu_seconds_total{{mode="idle",{NODE}}}[{WINDOW}]))', of),),
            steps=((GREEN, None), (RED, 0.9)),
            highest=1,
            none=NO_NODE,
        ),
        View(
            "Load per core",
            "Processes that run or wait to run, per core; over 1 requests wait for a core.",
            "none",
            ((f"node_load1{{{NODE}}} / on (instance) {cores}", of),),
            steps=((GREEN, None), (ORANGE, 1.0)),
            none=NO_NODE,
        ),
        View(
            "Memory",
            "Share of the memory that could not be given to another process.",
            "percentunit",
            ((f"1 - node_memory_MemAvailable_bytes{{{NODE}}} / node_memory_MemTotal_bytes{{{NODE}}}", of),),
            steps=((GREEN, None), (RED, 0.9)),
            highest=1,
            none=NO_NODE,
        ),
    )


def _disks_and_network() -> tuple[View, ...]:
    of = "{{instance}}"
    disk = f"node_filesystem_avail_bytes{{{DISKS}}} / (node_filesystem_size_bytes{{{DISKS}}} > 0)"
    busy = f"node_disk_io_time_seconds_total{{{NODE}}}"
    wire = f'device!="lo",{NODE}'
    return (
        View(
            "Disk left",
            "Share of each file system that is free; the prediction log and the store need some.",
            "percentunit",
            ((f"min by (instance, mountpoint) ({disk})", of + " {{mountpoint}}"),),
            steps=((RED, None), (GREEN, 0.1)),
            highest=1,
            none=NO_NODE,
        ),
        View(
            "Disk busy",
            "Share of the time in which a disk worked; the log's commits wait when it is near 1.",
            "percentunit",
            ((f"max by (instance, device) (rate({busy}[{WINDOW}]))", of + " {{device}}"),),
            width=12,
            axis_to=1,
            none=NO_NODE,
        ),
        View(
            "Network",
            "Bytes per second in and out, all devices but the loopback.",
            "Bps",
            tuple(
                (f"sum by (instance) (rate(node_network_{way}_bytes_total{{{wire}}}[{WINDOW}]))", f"{of} {word}")
                for way, word in (("receive", "in"), ("transmit", "out"))
            ),
            width=12,
            axis_to=1,
            none=NO_NODE,
        ),
    )
