"""The checks of `tests/gpu` on a machine with an NVIDIA device: each proves one promise from NVML, not from our own books.

Every check prints `ok`, `FAILED` or `skipped` with its name and reason; the figures come last. It starts two agents on a store
of its own in a temporary folder and ends only what it started.
"""

import ctypes
import glob
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TASKS = int(os.environ.get("TASKS", "1000"))
MIB = 1 << 20
# What the agents themselves take for the driver's own bookkeeping.
TOLERANCE = 64 * MIB
LOOK_EVERY = 0.005


class Failed(Exception):
    """A promise that does not hold."""


class Skipped(Exception):
    """A check that this machine does not allow, with the reason."""


class Process(ctypes.Structure):
    """nvmlProcessInfo_t of NVML's third version of the call."""

    _fields_ = [("pid", ctypes.c_uint), ("memory", ctypes.c_ulonglong), ("gi", ctypes.c_uint), ("ci", ctypes.c_uint)]


class Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Nvml:
    """What NVML itself says, asked here and not through our helper."""

    def __init__(self):
        self.library = ctypes.CDLL("libnvidia-ml.so.1")
        self.ask("nvmlInit_v2")
        count = ctypes.c_uint()
        self.ask("nvmlDeviceGetCount_v2", ctypes.byref(count))
        self.devices = {}
        for index in range(count.value):
            device, uuid = ctypes.c_void_p(), ctypes.create_string_buffer(96)
            self.ask("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
            self.ask("nvmlDeviceGetUUID", device, uuid, ctypes.c_uint(96))
            self.devices[uuid.value.decode()] = device

    def ask(self, call, *arguments):
        status = getattr(self.library, call)(*arguments)
        if status:
            raise Failed(f"{call} answers {status}")

    def processes(self, uuid):
        """Who computes on a device now."""
        count, found = ctypes.c_uint(256), (Process * 256)()
        self.ask("nvmlDeviceGetComputeRunningProcesses_v3", self.devices[uuid], ctypes.byref(count), found)
        return {found[i].pid for i in range(count.value)}

    def used(self, uuid):
        """Bytes in use on a device."""
        memory = Memory()
        self.ask("nvmlDeviceGetMemoryInfo", self.devices[uuid], ctypes.byref(memory))
        return memory.used


class Watch(threading.Thread):
    """Looks at every device again and again, and notes who computes there."""

    def __init__(self, nvml):
        super().__init__(daemon=True)
        self.nvml, self.looks, self.seen, self.most, self.stopped = nvml, 0, {}, {}, threading.Event()
        self.before = {uuid: nvml.processes(uuid) for uuid in nvml.devices}

    def run(self):
        while not self.stopped.wait(LOOK_EVERY):
            self.looks += 1
            for uuid in self.nvml.devices:
                there = self.nvml.processes(uuid) - self.before[uuid]
                self.seen.setdefault(uuid, set()).update(there)
                if len(there) > len(self.most.get(uuid, ())):
                    self.most[uuid] = there

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join()


def until(what, met, seconds):
    """Waits until something holds, and tells how long that took."""
    begun = time.monotonic()
    while not met():
        if time.monotonic() - begun > seconds:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(0.01)
    return time.monotonic() - begun


class Machine:
    """Two agents over one store, one queue whose tasks ask for a GPU."""

    def __init__(self, folder):
        self.folder, self.nvml, self.agents, self.figures = Path(folder), Nvml(), [], []
        self.home = Path(tempfile.mkdtemp(prefix="rhubarb-gpu-"))
        self.environment = dict(os.environ, LD_LIBRARY_PATH=library_path(), RHUBARB_GPU_LOCKS=str(self.home / "locks"))
        (self.home / "locks").mkdir()
        (self.home / "rhubarb.toml").write_text(
            f"""[app]
name = "gpu-checks"
metrics = "off"
[queues.gpu]
functions = ["scripted"]
gpus = 1
max_attempts = 1
[workers.one]
queues = ["gpu"]
[workers.two]
queues = ["gpu"]
[functions.scripted]
command = ["{self.folder / "scripted"}"]
"""
        )

    def rhubarb(self, *arguments, check=True):
        run = subprocess.run(
            [self.folder / "rhubarb", *arguments], cwd=self.home, env=self.environment, capture_output=True, text=True
        )
        if check and run.returncode:
            raise Failed(f"rhubarb {' '.join(arguments)}: {run.stderr.strip()}")
        return run.stdout

    def lines(self, *arguments):
        return [json.loads(line) for line in self.rhubarb(*arguments, "--json").splitlines()]

    def start(self, *workers):
        for worker in workers:
            log = open(self.home / f"{worker}.log", "w")
            command = [self.folder / "rhubarb", "agent", worker]
            self.agents.append(subprocess.Popen(command, cwd=self.home, env=self.environment, stdout=log, stderr=log))
        until("the agents show their devices free", lambda: self.states() == {"free"}, 60)

    def stop(self):
        for agent in self.agents:
            agent.send_signal(signal.SIGTERM)
        for agent in self.agents:
            agent.wait(60)
        self.agents.clear()

    def states(self):
        return {gpu["state"] for gpu in self.lines("gpus") if gpu["uuid"] in self.nvml.devices}

    def gpu(self, uuid):
        return next(gpu for gpu in self.lines("gpus") if gpu["uuid"] == uuid)

    def enqueue(self, **arguments):
        return self.lines("enqueue", "use_gpu", "--queue", "gpu", "--args", json.dumps(arguments))[0]["id"]

    def settled(self):
        queue = next(queue for queue in self.lines("queues") if queue["queue"] == "gpu")
        return {state: count for state, count in queue["tasks"].items() if state in ("succeeded", "failed", "cancelled")}

    def measured(self, name, value):
        self.figures.append((name, value))


def library_path():
    """The loader's path, with CUDA's libraries from the wheels of an installed PyTorch behind it."""
    wheels = [folder for base in sys.path for folder in sorted(glob.glob(f"{base}/nvidia/*/lib"))]
    return ":".join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), *wheels]))


def inventory(machine):
    """`rhubarb gpus` shows the devices that NVML shows."""
    shown = {gpu["uuid"]: gpu for gpu in machine.lines("gpus")}
    missing = set(machine.nvml.devices) - set(shown)
    if missing:
        raise Failed(f"not shown: {', '.join(sorted(missing))}")
    for uuid, gpu in shown.items():
        machine.measured("device", f"{gpu['name']}, {gpu['memory'] >> 30} GiB, compute {gpu['compute']}, driver {gpu['driver']}, {uuid}")


def training(machine):
    """Training on the device gives the processor's network, accuracy and checkpoints."""
    own_checks(machine, "training-checks")


def tissue(machine):
    """Tissue measured on the device gives the processor's numbers to the last bit."""
    own_checks(machine, "prediction-checks")


def own_checks(machine, program):
    command = [machine.folder / program, "--ignored", "--skip", "nvidias_compiler", "--nocapture", "--test-threads", "1"]
    run = subprocess.run(command, env=machine.environment, capture_output=True, text=True)
    for line in re.findall(r"^(.*held-out pictures)$", run.stdout, re.MULTILINE):
        machine.measured("accuracy", line.rsplit("... ")[-1])
    if run.returncode or " 0 passed;" in run.stdout:
        raise Failed(run.stdout[-3000:] + run.stderr[-3000:])


def step_time(machine):
    """A step takes at most as long as the same network's in PyTorch on the same device."""
    slow = []
    for hidden, batch, steps in (("4096,4096,4096,4096,4096,4096,4096,4096", 4096, 10), ("512,256", 64, 2000)):
        command = [machine.folder / "step_speed", "gpu", hidden, str(batch), str(steps)]
        run = subprocess.run(command, env=machine.environment, capture_output=True, text=True)
        if run.returncode:
            raise Failed(run.stderr)
        ours = json.loads(run.stdout)
        machine.measured(f"step, hidden {hidden}, batch {batch}", f"{ours['step_ms']:.3f} ms, {ours['tflops']:.1f} TFLOP/s")
        theirs = torch_step_ms([int(size) for size in hidden.split(",")], batch, steps)
        if theirs is None:
            continue
        ratio = ours["step_ms"] / theirs
        machine.measured("  the same in PyTorch", f"{theirs:.3f} ms: ours takes {ratio:.2f} times as long")
        if ratio > 1.0:
            slow.append(f"{ratio:.2f} times PyTorch's with hidden {hidden}")
    if slow:
        raise Failed("; ".join(slow))
    if theirs is None:
        raise Skipped("our own steps were timed; PyTorch is not installed to compare with")


def torch_step_ms(hidden, batch, steps):
    """Milliseconds of a step in PyTorch: same layers, loss, momentum, decay of the weights alone, single precision."""
    try:
        import torch
    except ImportError:
        return None
    torch.manual_seed(0)
    sizes = [32 * 32, *hidden, 10]
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:]):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1]).cuda()
    weights = [value for name, value in network.named_parameters() if name.endswith("weight")]
    biases = [value for name, value in network.named_parameters() if name.endswith("bias")]
    groups = [{"params": weights, "weight_decay": 1e-4}, {"params": biases, "weight_decay": 0.0}]
    descent = torch.optim.SGD(groups, lr=1e-4, momentum=0.9)
    images = torch.rand(batch * steps, sizes[0], device="cuda")
    labels = torch.randint(0, 10, (batch * steps,), device="cuda")
    loss_of = torch.nn.CrossEntropyLoss()

    def epoch():
        order = torch.randperm(batch * steps, device="cuda")
        total = torch.zeros((), device="cuda")
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            descent.zero_grad(set_to_none=True)
            loss = loss_of(network(images[chosen]), labels[chosen])
            loss.backward()
            descent.step()
            total += loss.detach()
        return float(total)

    epoch()
    begun = time.monotonic()
    epoch()
    taken = (time.monotonic() - begun) * 1e3 / steps
    del network, images, labels, descent
    torch.cuda.empty_cache()
    return taken


def bare_start(machine):
    """Milliseconds from starting a process to its first work on the device, without any of us."""
    found = []
    for _ in range(7):
        begun = time.time() * 1e3
        run = subprocess.run([machine.folder / "scripted", "gpu-first-work"], env=machine.environment, capture_output=True, text=True)
        if run.returncode:
            raise Failed(run.stdout + run.stderr)
        found.append(int(run.stdout) - begun)
    return statistics.median(found)


def lease(machine):
    """Two agents, short tasks: never two on one device, by NVML's list of processes. And the hand-over between two."""
    bare = bare_start(machine)
    machine.start("one", "two")
    before = machine.settled()
    with Watch(machine.nvml) as watch:
        ids = [machine.enqueue(mib=64, ms=5) for _ in range(TASKS)]
        until(f"{TASKS} short tasks", lambda: sum(machine.settled().values()) >= TASKS + sum(before.values()), 2400)
    failed = machine.settled().get("failed", 0) - before.get("failed", 0)
    if failed:
        raise Failed(f"{failed} of {TASKS} tasks failed")
    outputs = [json.loads(machine.rhubarb("result", task)) for task in ids]
    workers = {line["worker"].split("-")[0] for line in machine.lines("tasks", "--queue", "gpu", "--limit", str(TASKS))}
    seen = sum(len(pids) for pids in watch.seen.values())
    machine.measured("tasks", f"{TASKS} by {len(workers)} agents; {watch.looks} looks at NVML saw {seen} processes")
    hand_overs = []
    for uuid in machine.nvml.devices:
        on_it = sorted((out for out in outputs if out["gpus"] == [uuid]), key=lambda out: out["first_work"])
        for earlier, later in zip(on_it, on_it[1:]):
            if later["first_work"] < earlier["ended"]:
                raise Failed(f"tasks of processes {earlier['pid']} and {later['pid']} overlap on {uuid}")
            hand_overs.append(later["first_work"] - earlier["ended"] - bare)
    machine.measured("bare start of CUDA", f"{bare:.0f} ms (median of 7)")
    half, tenth = statistics.median(hand_overs), statistics.quantiles(hand_overs, n=10)[-1]
    machine.measured("hand-over beyond a bare start", f"{half:.0f} ms median, {tenth:.0f} ms for 9 of 10")
    for uuid, pids in watch.most.items():
        if len(pids) > 1:
            raise Failed(f"{len(pids)} processes at once on {uuid}: {sorted(pids)}")
    if half > 500:
        raise Failed(f"a hand-over takes {half:.0f} ms beyond a bare start; at most 500 were promised")
    if seen < TASKS / 2:
        raise Skipped(f"NVML showed {seen} of {TASKS} processes, as in containers: only the tasks' own times prove it here")


def killed(machine):
    """A killed task's memory is back at the baseline."""
    idle(machine)
    baselines = {uuid: machine.nvml.used(uuid) for uuid in machine.nvml.devices}
    machine.enqueue(mib=4096, ms=3_600_000)
    full = lambda: [uuid for uuid, used in baselines.items() if machine.nvml.used(uuid) > used + 4000 * MIB]
    until("the task holds its memory", full, 60)
    [uuid] = full()
    [pid] = holders(machine, uuid)
    os.kill(pid, signal.SIGKILL)
    took = until("its memory is back", lambda: machine.nvml.used(uuid) <= baselines[uuid] + TOLERANCE, 30)
    machine.measured("4 GiB of a killed task back", f"{took * 1e3:.0f} ms after the signal")
    until("the device is free again", lambda: machine.states() == {"free"}, 30)


def holders(machine, uuid):
    """The function processes that were started with this device; others of the agents see none."""
    parents = ",".join(str(agent.pid) for agent in machine.agents)
    children = subprocess.run(["pgrep", "-P", parents], capture_output=True, text=True).stdout.split()
    mark = f"CUDA_VISIBLE_DEVICES={uuid}".encode()
    return [int(pid) for pid in children if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]


def leak(machine):
    """A process that a task leaves behind keeps the device from the next task, until it is gone."""
    idle(machine)
    task = machine.enqueue(mib=2048, ms=100, leave=True)
    until("the leaky task has settled", lambda: machine.lines("task", task)[0]["state"] in ("succeeded", "failed"), 60)
    output = json.loads(machine.rhubarb("result", task))
    left, uuid = output["left"], output["gpus"][0]
    try:
        took = until("the device is in quarantine", lambda: machine.gpu(uuid)["state"] == "quarantined", 60)
        machine.measured("a leak is caught", f"after {took:.1f} s: {machine.gpu(uuid).get('reason')}")
    finally:
        if Path(f"/proc/{left}").exists():
            os.kill(left, signal.SIGKILL)
    machine.rhubarb("gpus", "release", uuid)
    until("the device is free again", lambda: machine.gpu(uuid)["state"] == "free", 90)


def watching(machine):
    """What an idle agent and its helper take of the processor."""
    idle(machine)
    agent = machine.agents[0].pid
    family = [agent, *map(int, subprocess.run(["pgrep", "-P", str(agent)], capture_output=True, text=True).stdout.split())]

    def ticks():
        stat = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in family]
        return sum(int(fields[11]) + int(fields[12]) for fields in stat)

    begun, at = ticks(), time.monotonic()
    time.sleep(60)
    share = (ticks() - begun) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - at) / len(machine.nvml.devices)
    machine.measured("agent and helper while idle", f"{100 * share:.2f} % of a core for each device")
    if share > 0.005:
        raise Failed(f"{100 * share:.2f} % of a core; under 0.5 % was promised")


def idle(machine):
    """Returns once both agents run and hold nothing."""
    if not machine.agents:
        machine.start("one", "two")
    until("the devices are free", lambda: machine.states() == {"free"}, 60)


CHECKS = [inventory, training, tissue, step_time, lease, killed, leak, watching]


def main():
    folder, *only = sys.argv[1:]
    machine = Machine(folder)
    failed = 0
    try:
        for check in CHECKS:
            if only and not any(check.__name__.startswith(name) for name in only):
                continue
            try:
                check(machine)
                print(f"ok: {check.__name__}: {check.__doc__}", flush=True)
            except Skipped as reason:
                print(f"skipped: {check.__name__}: {reason}", flush=True)
            except Failed as reason:
                failed += 1
                print(f"FAILED: {check.__name__}: {check.__doc__}\n  {reason}", flush=True)
    finally:
        machine.stop()
        if failed:
            print(f"the agents' logs are in {machine.home}")
        else:
            shutil.rmtree(machine.home)
    print("\n| what | measured |\n|---|---|")
    for name, value in machine.figures:
        print(f"| {name} | {value} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
