"""A page of Server-Sent Events: a clock that counts in the session, and what any visitor says, to everybody who looks.

Nothing but Python's standard library. All links are relative, so it does not mind below which path it is served.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Events</title>
<style>
  body { font: 16px system-ui, sans-serif; margin: 2rem; max-width: 36rem; }
  #tick { font-size: 3rem; }
  input { font: inherit; padding: .4rem; width: 20rem; }
</style>
<h1>Server-Sent Events</h1>
<p>Ticks of this session: <b id="tick">–</b></p>
<form><input name="text" placeholder="Say something" autocomplete="off"></form>
<ol id="said"></ol>
<p id="state">connecting</p>
<script>
  const events = new EventSource("events");
  const byId = (id) => document.getElementById(id);
  events.onopen = () => (byId("state").textContent = "connected");
  events.onerror = () => (byId("state").textContent = "disconnected");
  events.addEventListener("tick", (event) => (byId("tick").textContent = event.data));
  events.addEventListener("said", (event) => {
    const line = document.createElement("li");
    line.dataset.id = event.lastEventId;
    const { from, text } = JSON.parse(event.data);
    line.textContent = `${from}: ${text}`;
    byId("said").append(line);
  });
  document.forms[0].onsubmit = (event) => {
    event.preventDefault();
    const field = event.target.elements.text;
    fetch("say", { method: "POST", body: field.value });
    field.value = "";
  };
</script>
"""
TICK_SECONDS = 0.25
TEXT_BYTES_MAX = 1000
LOG_MAX = 100

lock = threading.Lock()
said = []  # (number, text of the event)
watchers = set()


def tell(text):
    with lock:
        for watcher in watchers:
            watcher.put(text)


def tick():
    count = 0
    while True:
        count += 1
        tell(f"event: tick\ndata: {count}\n\n")
        time.sleep(TICK_SECONDS)


class Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/":
            self.answer(200, PAGE, "text/html; charset=utf-8")
        elif self.path == "/events":
            self.stream()
        else:
            self.answer(404, "not here\n", "text/plain")

    def do_POST(self):
        text = self.rfile.read(min(int(self.headers.get("content-length", 0)), TEXT_BYTES_MAX))
        who = self.headers.get("x-verified-username", "somebody")
        with lock:
            number = said[-1][0] + 1 if said else 1
            data = json.dumps({"from": who, "text": text.decode("utf-8", "replace")})
            said.append((number, f"event: said\nid: {number}\ndata: {data}\n\n"))
            del said[:-LOG_MAX]
            for watcher in watchers:
                watcher.put(said[-1][1])
        self.answer(200, "", "text/plain")

    def stream(self):
        """What was said since the event that the browser had last, and then whatever comes."""
        since = int(self.headers.get("last-event-id") or 0)
        mine = queue.Queue()
        with lock:
            for number, text in said:
                if number > since:
                    mine.put(text)
            watchers.add(mine)
        try:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("cache-control", "no-store")
            self.send_header("connection", "close")
            self.end_headers()
            while True:
                self.wfile.write(mine.get().encode())
        except OSError:
            pass  # The window was closed.
        finally:
            with lock:
                watchers.discard(mine)

    def answer(self, status, text, kind):
        body = text.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=tick, daemon=True).start()
    server = ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", "8080"))), Page)
    server.daemon_threads = True
    server.serve_forever()
