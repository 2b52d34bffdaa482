"""Where events go: Spotlight, a real receiver, and a scripted one that answers as it is told, or not at all."""

import contextlib
import gzip
import http.client
import http.server
import json
import os
import ssl
import threading
import urllib.request

import sockets
from node_peers import node, package
from programs import Program
from waiting import wait_for


class Events:
    """A list of events that grows; `envelopes` is it."""

    def __init__(self):
        self.envelopes = []  # [header, [[item's header, item], ...]]

    def items(self, kind="event"):
        return [
            item for _, items in list(self.envelopes) for header, item in items if header["type"] == kind
        ]

    def events(self, **tags):
        """The events that have these tags."""
        return [
            event
            for event in self.items()
            if all(event.get("tags", {}).get(key) == value for key, value in tags.items())
        ]

    def messages(self):
        return [event.get("logentry", {}).get("message") for event in self.items()]

    def wait_event(self, timeout=10.0, level=None, message=None, **tags):
        def find():
            return [
                event
                for event in self.events(**tags)
                if (level is None or event["level"] == level)
                and (message is None or event.get("logentry", {}).get("message") == message)
            ]

        wanted = {"level": level, "message": message, **tags}
        found = wait_for(find, lambda: f"an event with {wanted}, there are: {self.items()}", timeout)
        return found[0]


class Spotlight(Program, Events):
    """@spotlightjs/spotlight, the local stand-in for Sentry; what it has taken is read from its own stream."""

    def __init__(self, port=None):
        Program.__init__(self)
        Events.__init__(self)
        self.port = port or sockets.free_port()
        self.dsn = f"http://0123456789abcdef@127.0.0.1:{self.port}/1"
        self.stream = None
        # It reports its own doings to its makers; that goes nowhere.
        environment = {**os.environ, "https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
        environment.pop("SENTRY_SPOTLIGHT", None)
        self.launch([node(), str(package("@spotlightjs/spotlight") / "dist" / "run.js"), "server", "-p",
                     str(self.port)], environment)
        try:
            wait_for(self._answers, lambda: f"spotlight answers: {self.log.read_text()}", 60)
            self.stream = http.client.HTTPConnection("127.0.0.1", self.port)
            self.stream.request("GET", "/stream")
            self.reader = threading.Thread(target=self._read, args=[self.stream.getresponse()], daemon=True)
            self.reader.start()
        except BaseException:
            self.close()
            raise

    def _answers(self):
        assert self.process.poll() is None, f"spotlight ended: {self.log.read_text()}"
        with contextlib.suppress(OSError, http.client.HTTPException):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return answer.status == 200
        return False

    def _read(self, response):
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            while line := response.readline():
                if line.startswith(b"data: ["):
                    self.envelopes.append(json.loads(line[len(b"data: ") :]))

    def close(self):
        super().close()  # which ends the stream
        if self.stream:
            self.reader.join(10)
            self.stream.close()


class Hang:
    """An answer that never comes."""


HANG = Hang()


class Scripted(Events):
    """Answers the requests by what `script(number)` says, from number 1 on: (status, headers), or HANG."""

    def __init__(self, script=lambda number: (200, {}), port=0, identity=None):
        super().__init__()
        self.requests = []  # (path, headers)
        self.over = threading.Event()
        self.script = script
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802  (the module's name for it)
                outer.take(self)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_):
                pass  # a client that leaves is what some tests are about

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        scheme = "http"
        if identity:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(identity.certificate, identity.key)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            scheme = "https"
        self.dsn = f"{scheme}://0123456789abcdef@127.0.0.1:{self.port}/1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True)
        self.thread.start()

    def take(self, request):
        body = request.rfile.read(int(request.headers["Content-Length"]))
        self.requests.append((request.path, dict(request.headers)))
        answer = self.script(len(self.requests))
        if answer is HANG:
            self.over.wait(60)
            return
        status, headers = answer
        if status == 200:
            self.envelopes.append(parse(gzip.decompress(body)))
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "2")
        request.end_headers()
        request.wfile.write(b"{}")

    def wait_requests(self, count, timeout=10.0):
        wait_for(lambda: len(self.requests) >= count, lambda: f"{count} requests, there are {self.requests}", timeout)

    def close(self):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def parse(envelope):
    """[header, [[item's header, item], ...]], by the lengths that the items' headers tell."""
    line, _, rest = envelope.partition(b"\n")
    items = []
    header = json.loads(line)
    while rest:
        line, _, rest = rest.partition(b"\n")
        item = json.loads(line)
        length = item["length"]
        items.append([item, json.loads(rest[:length])])
        assert rest[length : length + 1] == b"\n"
        rest = rest[length + 1 :]
    return [header, items]
