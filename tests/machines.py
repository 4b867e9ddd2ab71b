"""Machines for tests: this one's system, changes aside, in namespaces of its own.

A `Machine` is booted by systemd (systemd-nspawn), a `Bare` one has a shell and nothing that starts or watches others.
"""

import os
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from namespaces import Namespace, run

DEADLINE_S = 300.0
END_OF_BLOCK = "-- end of block, status "
# The first command that fails ends the shell.
SHELL = ("env", "-i", "HOME=/root", "TERM=dumb", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "bash", "-e")


class Bare:
    def __init__(self, name: str) -> None:
        """Interfaces come into `namespace` before `boot`."""
        self.name = name
        self.namespace = Namespace(name)
        self._directory = Path(tempfile.mkdtemp(prefix=f"nst-{name}-"))
        run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(self._directory))
        for part in ("changes", "work", "root"):
            (self._directory / part).mkdir()
        self.root = self._directory / "root"
        layers = f"lowerdir=/,upperdir={self._directory}/changes,workdir={self._directory}/work"
        run("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))
        self._shell: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """What runs in it ends with its shell, the first process of its namespace."""
        mounts = [f"mount -t {kind} {kind} {self.root}/{at}" for kind, at in (("proc", "proc"), ("sysfs", "sys"))]
        mounts += [f"mount -t tmpfs tmpfs {self.root}/{at}" for at in ("run", "tmp")]
        mounts += [f"mount --rbind /dev {self.root}/dev"]
        enter = f"{' && '.join(mounts)} && exec chroot {self.root} {' '.join(SHELL)}"
        apart = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", enter)
        self._open_shell(self.namespace.command(*apart))

    def _open_shell(self, command: list[str]) -> None:
        self._shell = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.type("cd /root")

    def type(self, block: str) -> str:
        """What root types at one shell, whose variables stay, and what it shows."""
        shell = self._shell
        assert shell is not None and shell.stdin is not None and shell.stdout is not None
        shell.stdin.write(f"{block.rstrip()}\necho; echo '{END_OF_BLOCK}'\n".encode())
        shell.stdin.flush()
        seen = ""
        deadline = time.monotonic() + DEADLINE_S
        while not seen.endswith(f"{END_OF_BLOCK}\n"):
            ready, _, _ = select.select([shell.stdout], [], [], max(0.0, deadline - time.monotonic()))
            read = os.read(shell.stdout.fileno(), 65536) if ready else b""
            if not read:
                raise AssertionError(f"{self.name}:\n{block}\nends, or does not end, after:\n{seen}\n{self.log()}")
            seen += read.decode()
        return seen.removesuffix(f"\n{END_OF_BLOCK}\n")

    def log(self) -> str:
        return "".join(file.read_text() for file in sorted((self.root / "var/log").glob("stitch*.log")))

    def power_off(self) -> None:
        """At once, as when the current fails; the disk stays."""
        if self._shell is not None:
            self._shell.kill()
            self._shell.communicate()
        self._shell = None

    def remove(self) -> None:
        self.power_off()
        run("umount", str(self.root))
        run("umount", str(self._directory))
        self._directory.rmdir()
        self.namespace.remove()


class Machine(Bare):
    _container: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Returns when systemd takes orders."""
        # Images of containers have it, so that no package starts a service; machines with systemd have not.
        (self.root / "usr/sbin/policy-rc.d").unlink(missing_ok=True)
        console = (self._directory / "console").open("wb")
        command = ["systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={self.namespace.name}"]
        command += [f"--hostname={self.name}", "--register=no", "--keep-unit", "--console=pipe", "--capability=all"]
        command += [
            f"--network-namespace-path=/var/run/netns/{self.namespace.name}",
            "--boot",
            "--",
            "--unit=basic.target",
        ]
        # BPF programs are loaded in there, which nspawn's filter of system calls would forbid.
        environment = {**os.environ, "SYSTEMD_SECCOMP": "0", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        self._container = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment, start_new_session=True
        )
        deadline = time.monotonic() + DEADLINE_S
        while True:
            if self._container.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} does not boot: {(self._directory / 'console').read_text()}")
            if self._leader() and subprocess.run(self._inside("systemctl", "is-active", "-q", "basic.target")).returncode == 0:  # fmt: skip # noqa: E501
                break
            time.sleep(0.2)
        self._open_shell(self._inside(*SHELL))

    def log(self) -> str:
        return subprocess.run(
            self._inside("journalctl", "--no-pager", "-o", "cat", "-u", "stitch*"), capture_output=True, text=True
        ).stdout

    def power_off(self) -> None:
        super().power_off()
        if self._container is not None:
            if leader := self._leader():
                os.kill(leader, signal.SIGKILL)
            self._container.wait(timeout=DEADLINE_S)
        self._container = None

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self._leader()}", "--all", "--", *command]

    def _leader(self) -> int:
        """The machine's init, seen from here; 0: there is none."""
        assert self._container is not None
        children = Path(f"/proc/{self._container.pid}/task/{self._container.pid}/children")
        children_found = children.read_text().split() if self._container.poll() is None else []
        return int(children_found[0]) if children_found else 0
