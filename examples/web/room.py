"""The session: one process for one room. It runs in a container of its own, and goes when the last visitor has left.

All that it knows of Jetway: listen on $PORT, and believe the header x-verified-username.
"""

import os
import signal

from aiohttp import WSMsgType, web

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
        await tell_all({"here": sorted(visitors.values())})
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                await tell_all({"from": name, "text": message.data})
    finally:
        del visitors[socket]
        await tell_all({"here": sorted(visitors.values())})
    return socket


async def end(app):
    for socket in list(visitors):
        await socket.close(code=1001, message=b"the room ends")


app = web.Application()
app.router.add_get("/ws", enter)
app.on_shutdown.append(end)
print(f"room {os.environ.get('SESSION_BACKEND_KEY')} opens", flush=True)
web.run_app(app, port=int(os.environ["PORT"]), print=None, handle_signals=True)
