import marimo

app = marimo.App()


@app.cell
def _():
    import marimo as mo

    return (mo,)


@app.cell
def _(mo):
    number = mo.ui.number(start=1, stop=100, value=3, label="A number")
    number
    return (number,)


@app.cell
def _(mo, number):
    mo.md(f"Its square is **{number.value ** 2}**.")
    return


@app.cell
def _(mo):
    signed_in = mo.app_meta().request.headers.get("x-verified-username", "a stranger")
    mo.md(f"Signed in: {signed_in}.")
    return


if __name__ == "__main__":
    app.run()
