"""An OpenSSH server on loopback, with keys and configuration of its own, for tests."""

import contextlib
import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import time

PROGRAMS = {name: shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") for name in
            ("sshd", "ssh", "ssh-keygen")}  # fmt: skip
MISSING = ", ".join(name for name, path in PROGRAMS.items() if path is None)


class Server:
    """A running server.

    Attributes:
        folder: of its files.
        port: where it listens.
        process: of sshd.
    """

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        for name in ("host_key", "user_key", "other_key"):
            self._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        (folder / "temporary").mkdir()
        self.client_config("config")
        self._write_server_config()
        self.log = folder / "sshd.log"
        command = [PROGRAMS["sshd"], "-D", "-f", folder / "sshd_config", "-E", self.log]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def _run(self, program, *words):
        subprocess.run([PROGRAMS[program], *map(str, words)], check=True, capture_output=True)

    def _write_server_config(self):
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder}/host_key",
            f"AuthorizedKeysFile {self.folder}/authorized_keys",
            f"PidFile {self.folder}/pid",
            f"SetEnv TMPDIR={self.folder}/temporary XDG_CACHE_HOME={self.folder}/cache",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "StrictModes no",
            "UsePAM no",
            "MaxStartups 100",
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")

    def client_config(self, name, key="user_key", known=True, port=None):
        """Write an ssh configuration in which the server's alias is "board"; return its path."""
        host_key = (self.folder / "host_key.pub").read_text()
        hosts = self.folder / f"{name}.known_hosts"
        hosts.write_text(f"[127.0.0.1]:{port or self.port} {host_key}" if known else "")
        path = self.folder / name
        lines = [
            "Host board",
            "  HostName 127.0.0.1",
            f"  Port {port or self.port}",
            f"  User {getpass.getuser()}",
            f"  IdentityFile {self.folder}/{key}",
            "  IdentitiesOnly yes",
            "  IdentityAgent none",
            f"  UserKnownHostsFile {hosts}",
            "  GlobalKnownHostsFile /dev/null",
        ]
        path.write_text("\n".join(lines) + "\n")
        return path

    @property
    def kept(self):
        """The folder of files that are sent once."""
        return self.folder / "cache" / "keras-nin"

    @property
    def temporary(self):
        """The folder for temporary files of whoever logs in."""
        return self.folder / "temporary"

    def stop(self):
        """End the server and its sessions."""
        for child in children(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, 9)
        self.process.terminate()
        self.process.wait()


def children(process):
    """Return the ids of all processes that descend from a process."""
    parents = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, queue = [], [process]
    while queue:
        below = parents.get(queue.pop(), [])
        found += below
        queue += below
    return found


def free_port():
    """Return the number of a port that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder):
    """Start a `Server` and wait until it listens."""
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # Debian's sshd insists on it
    server = Server(folder)
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1):
            return server
        if server.process.poll() is not None:
            raise RuntimeError(server.log.read_text())
        time.sleep(0.05)
    raise RuntimeError("sshd does not listen")
