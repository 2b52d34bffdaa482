"""The certificate of whoever accepts TLS: made for one run of the benchmark, signed by itself."""

import dataclasses
import os
import subprocess

import processes

KINDS = {
    "p256": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "rsa2048": ("-newkey", "rsa:2048"),
}


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Paths of PEM files. HAProxy and the load generator take both in one."""

    key: str
    chain: str
    both: str


def create(directory, kind):
    made = Certificate(*(os.path.join(directory, f"bench.{ending}") for ending in ("key", "crt", "pem")))
    command = ["openssl", "req", "-x509", *KINDS[kind], "-nodes", "-days", "2", "-subj", "/CN=bench.example", "-keyout",
               made.key, "-out", made.chain]
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    except FileNotFoundError:
        raise processes.Failure("openssl is not installed: it makes the certificate") from None
    except subprocess.CalledProcessError as error:
        raise processes.Failure(f"openssl made no certificate: {error.stderr.strip()}") from None
    with open(made.both, "w", encoding="ascii") as both:
        for path in (made.chain, made.key):
            with open(path, encoding="ascii") as file:
                both.write(file.read())
    return made
