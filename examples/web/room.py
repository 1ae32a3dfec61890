"""The session: one process for one room. It runs in a container of its own, and goes when the last visitor has left.

An ordinary web application at the root of its own host. All that it knows of Jetway: listen on $PORT, and believe the
header x-verified-username.
"""

import os
from pathlib import Path

from aiohttp import WSMsgType, web

ROOM = os.environ.get("SESSION_BACKEND_KEY", "room")
PAGE = Path(__file__).with_name("room.html").read_text()

visitors = {}  # socket -> name


async def tell_all(message):
    for socket in list(visitors):
        try:
            await socket.send_json(message)
        except ConnectionError:
            pass  # It is leaving; its own task takes it out.


async def enter(request):
    socket = web.WebSocketResponse(heartbeat=30, max_msg_size=4096)
    await socket.prepare(request)
    name = request.headers.get("x-verified-username", "somebody")
    visitors[socket] = name
    try:
        await socket.send_json({"you": name, "room": ROOM})
        await tell_all({"here": sorted(visitors.values())})
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                await tell_all({"from": name, "text": message.data})
    finally:
        del visitors[socket]
        await tell_all({"here": sorted(visitors.values())})
    return socket


async def page(request):
    return web.Response(text=PAGE, content_type="text/html", headers={"cache-control": "no-store"})


async def health(request):
    return web.Response(text="fine")


async def end(app):
    for socket in list(visitors):
        await socket.close(code=1001, message=b"the room ends")


app = web.Application()
app.router.add_get("/", page)
app.router.add_get("/health", health)
app.router.add_get("/ws", enter)
app.on_shutdown.append(end)
print(f"room {ROOM} opens", flush=True)
web.run_app(app, port=int(os.environ["PORT"]), print=None, handle_signals=True)
