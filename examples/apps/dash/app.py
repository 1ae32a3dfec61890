"""A page of Dash's: a chart that follows a choice, two pages by their addresses, and the name of the person who looks at it."""

import os

from dash import Dash, Input, Output, callback, dcc, html
from flask import request

# Pages come and go, so that what a callback speaks of is not always there.
app = Dash(suppress_callback_exceptions=True)
app.layout = html.Div([
    dcc.Location(id="address"),
    html.P(id="me"),
    dcc.Link("Chart", href="/"), " ", dcc.Link("About", href="/about"),
    html.Div(id="page"),
])
chart = [
    dcc.Input(id="power", type="number", value=2, min=1, max=9),
    html.P(id="sum"),
    dcc.Graph(id="chart"),
]


@callback(Output("page", "children"), Output("me", "children"), Input("address", "pathname"))
def page(pathname):
    me = request.headers.get("x-verified-username", "a stranger")
    return (html.P("Powers of the first numbers.", id="about") if pathname == "/about" else chart), f"Signed in: {me}"


@callback(Output("sum", "children"), Output("chart", "figure"), Input("power", "value"))
def powers(power):
    values = [number ** (power or 1) for number in range(1, 6)]
    return f"The sum is {sum(values)}", {"data": [{"type": "bar", "y": values}]}


app.run(host="0.0.0.0", port=int(os.environ.get("PORT", "8080")))
