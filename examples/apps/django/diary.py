"""A diary with Django: people sign in with a form, and what they write is theirs. Everything in one file."""

import os
import sys

from django.conf import settings

settings.configure(
    DEBUG=True,
    SECRET_KEY="known to all readers of this file",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django.contrib.staticfiles"],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    TEMPLATES=[{
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {
            "context_processors": ["django.template.context_processors.request", "django.contrib.auth.context_processors.auth"],
            "loaders": [("django.template.loaders.locmem.Loader", {
                "sign-in.html": '<title>Sign in</title><form method="post">{% csrf_token %}{{ form.as_p }}<button>Sign in</button></form>',
                "diary.html": '<title>Diary</title><h1>{{ user.username }}’s diary</h1><p>By the proxy: <b id="me">{{ me }}</b></p>'
                '<form method="post">{% csrf_token %}<input name="line"><button>Write</button></form>'
                '<ol>{% for line in lines %}<li>{{ line }}</li>{% endfor %}</ol>'
                '<form method="post" action="{% url "sign-out" %}">{% csrf_token %}<button>Sign out</button></form>',
            })],
        },
    }],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.expanduser("~/diary.sqlite3")}},
    STATIC_URL="/static/",
    LOGIN_URL="/accounts/sign-in/",
    LOGIN_REDIRECT_URL="/diary/",
    LOGOUT_REDIRECT_URL="/accounts/sign-in/",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)

import django  # noqa: E402

django.setup()

from django.contrib.auth.decorators import login_required  # noqa: E402
from django.contrib.auth.views import LoginView, LogoutView  # noqa: E402
from django.core.management import execute_from_command_line  # noqa: E402
from django.shortcuts import redirect, render  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.generic import RedirectView  # noqa: E402


@login_required
def diary(request):
    if request.method == "POST":
        request.session["lines"] = [*request.session.get("lines", []), request.POST["line"]]
        return redirect("diary")
    me = request.headers.get("x-verified-username", "a stranger")
    return render(request, "diary.html", {"lines": request.session.get("lines", []), "me": me})


urlpatterns = [
    path("", RedirectView.as_view(pattern_name="diary")),
    path("accounts/sign-in/", LoginView.as_view(template_name="sign-in.html")),
    path("accounts/sign-out/", LogoutView.as_view(), name="sign-out"),
    path("diary/", diary, name="diary"),
]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
