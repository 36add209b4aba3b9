"""The upstreams of scripts/real-callers: HTTP/1.1, a WebSocket echo, server-sent events, and gRPC.

    python upstreams.py HTTP-PORT WEBSOCKET-PORT GRPC-PORT

What they were told and what became of it is written to stdout, a line each, for the rig to read.
"""

import asyncio
import http.server
import sys
import threading
import time
from concurrent import futures

HOST = "127.0.0.1"
PAGE = b"""<!doctype html><title>busy</title><script>
const heard = {socket: [], events: []};
const done = () => {
  if (heard.socket.length == 10 && heard.events.length == 5) document.title = JSON.stringify(heard);
};
const socket = new WebSocket(`wss://${location.host}/open/ws`);
socket.onopen = () => { for (let i = 0; i < 10; i++) socket.send(`message ${i}`); };
socket.onmessage = (event) => { heard.socket.push(event.data); done(); };
const source = new EventSource('/open/events');
source.onmessage = (event) => {
  heard.events.push(event.data);
  if (heard.events.length == 5) source.close();
  done();
};
</script>"""


def tell(line):
    print(line, flush=True)


class Answers(http.server.BaseHTTPRequestHandler):
    """`/page`, `/events` (one each 50 ms), `/bytes/N`; anything else is echoed."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.removeprefix("/open")
        if path == "/events":
            return self.events()
        if path == "/page":
            return self.whole(PAGE, "text/html")
        if path.startswith("/bytes/"):
            return self.whole(bytes(int(path.split("/")[2])))
        return self.whole(b"ok")

    def do_POST(self):
        self.whole(b"".join(self.body()))

    def body(self):
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            yield self.rfile.read(int(self.headers.get("content-length", 0)))

    def whole(self, body, kind="application/octet-stream"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def events(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for number in range(1000):
                self.wfile.write(f"data: tick {number}\n\n".encode())
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            tell("events: the reader left")
        self.close_connection = True

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # of five, the usual, a burst of connections loses some


def http_upstream(port):
    server = Server((HOST, port), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def grpc_upstream(port):
    """`/rig.Echo/*`: bytes in, bytes out, without generated code."""
    import grpc

    def until_cancelled(name, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(10)
        tell(f"grpc: {name} {'cancelled' if not context.is_active() else 'still wanted'}")

    def unary(request, context):
        if request == b"missing":
            context.set_trailing_metadata((("rig-detail", "no such thing"),))
            context.abort(grpc.StatusCode.NOT_FOUND, "nothing by that name")
        if request == b"slow":
            until_cancelled("slow", context)
        return b"echo " + request

    def down(request, context):
        for number in range(int(request)):
            yield b"item %d" % number

    def endless(request, context):
        yield b"first"
        until_cancelled("endless", context)

    def up(requests, context):
        return b"sum %d" % sum(len(request) for request in requests)

    def both(requests, context):
        for request in requests:
            yield b"echo " + request

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Down": grpc.unary_stream_rpc_method_handler(down),
        "Endless": grpc.unary_stream_rpc_method_handler(endless),
        "Up": grpc.stream_unary_rpc_method_handler(up),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("rig.Echo", handlers),))
    server.add_insecure_port(f"{HOST}:{port}")
    server.start()
    return server


async def websocket_upstream(port):
    from websockets.asyncio.server import serve

    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with serve(echo, HOST, port, max_size=None):
        await asyncio.get_running_loop().create_future()


def main():
    http_port, websocket_port, grpc_port = map(int, sys.argv[1:])
    http_upstream(http_port)
    kept = grpc_upstream(grpc_port)
    asyncio.run(websocket_upstream(websocket_port))
    kept.stop(None)


if __name__ == "__main__":
    main()
