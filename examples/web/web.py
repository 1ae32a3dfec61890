"""The web app: it knows who the visitor is, asks Jetway for the room's session, and gives the page its URL.

The API key stays here; a browser gets nothing but the URL, which is good for this visitor and this session only.
"""

import hashlib
import hmac
import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

from aiohttp import ClientError, ClientSession, ClientTimeout, web

JETWAY = os.environ.get("JETWAY_URL", "http://127.0.0.1:8080")
API_KEY = Path(os.environ["JETWAY_API_KEY_FILE"]).read_text().strip()
ROOM_IMAGE = os.environ["ROOM_IMAGE"]
PAGE = Path(__file__).with_name("page.html").read_text()


async def room_url(room, visitor):
    """The whole of Jetway, for a web app: one call. The same room is the same process, whoever asks."""
    body = {
        "key": {"namespace": "rooms", "name": room},
        "spawn_config": {
            "executable": {"image": ROOM_IMAGE, "cmd": ["python3", "room.py"]},
            "max_idle_seconds": 5,
        },
        "user": visitor,
    }
    async with ClientSession(timeout=ClientTimeout(total=40)) as jetway:
        headers = {"authorization": f"Bearer {API_KEY}"}
        async with jetway.post(f"{JETWAY}/ctrl/connect", json=body, headers=headers) as response:
            answer = await response.json()
            if response.status != 200:
                raise web.HTTPServiceUnavailable(text=f"no room now: {answer['message']}")
            return answer["url"]


# Signing in, as short as it can be: a name in a signed cookie. Yours is whatever your app has already.


def signature(name):
    return hmac.new(API_KEY.encode(), name.encode(), hashlib.sha256).hexdigest()


def visitor_of(request):
    name, _, signed = request.cookies.get("visitor", "").rpartition(".")
    name = unquote(name)
    return name if hmac.compare_digest(signed, signature(name)) else None


async def sign_in(request):
    name = (await request.post()).get("name", "").strip()[:40]
    if not name.isprintable() or not name:
        raise web.HTTPBadRequest(text="a name has 1 to 40 characters")
    response = web.HTTPSeeOther("/")
    response.set_cookie("visitor", f"{quote(name, safe='')}.{signature(name)}", httponly=True, samesite="Lax")
    raise response


async def page(request):
    visitor = visitor_of(request)
    # What the page does depends on one word; the rest is in page.html.
    return web.Response(
        text=PAGE.replace("{{signed-in}}", "yes" if visitor else "no"),
        content_type="text/html",
        headers={"cache-control": "no-store"},
    )


async def enter_room(request):
    visitor = visitor_of(request)
    if visitor is None:
        raise web.HTTPUnauthorized(text="sign in first")
    room = request.match_info["room"]
    if not re.fullmatch(r"[a-z0-9-]{1,40}", room):
        raise web.HTTPBadRequest(text="a room's name has small letters, digits and hyphens")
    try:
        return web.json_response({"url": await room_url(room, visitor), "you": visitor})
    except (ClientError, TimeoutError) as error:
        raise web.HTTPServiceUnavailable(text=f"Jetway does not answer at {JETWAY}: {error}")


app = web.Application()
app.router.add_get("/", page)
app.router.add_post("/sign-in", sign_in)
app.router.add_post("/rooms/{room}", enter_room)
web.run_app(app, port=3000)
