"""Volumes as Kubernetes' kubelet makes and renews them: its AtomicWriter."""

import pathlib
import shutil


class Volume:
    """Of a secret or a ConfigMap. `contents`: by file's name, bytes. `mode`: its defaultMode."""

    def __init__(self, directory, contents, mode=0o644):
        self.directory = pathlib.Path(directory)
        self.mode = mode
        self.directory.mkdir()
        self.number = 0
        self.data = None
        self.write(contents)
        for name in contents:
            (self.directory / name).symlink_to(f"..data/{name}")

    def write(self, contents):
        before = self.data
        self.number += 1
        self.data = self.directory / f"..2026_11_30_07_00_{self.number:02}.{self.number}"
        self.data.mkdir()
        for name, content in contents.items():
            (self.data / name).write_bytes(content)
            (self.data / name).chmod(self.mode)
        link = self.directory / "..data_tmp"
        link.symlink_to(self.data.name)
        link.rename(self.directory / "..data")
        if before:
            shutil.rmtree(before)
