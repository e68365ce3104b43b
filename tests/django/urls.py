"""The routes of the project."""

from __future__ import annotations

from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from stream_cached.django import cache_stream
from tests.django import views
from tests.django.private_views import PRIVATE

urlpatterns = [
    path("gated/<str:name>/<int:count>", views.gated),
    path("agated/<str:name>/<int:count>", views.agated),
    path("plain/gated/<str:name>/<int:count>", views.plain_gated),
    path("plain/agated/<str:name>/<int:count>", views.plain_agated),
    path("private/<str:name>/<int:count>", views.private),
    path("aprivate/<str:name>/<int:count>", views.aprivate),
    path("mixed/<str:name>/<int:count>", views.mixed),
    path("amixed/<str:name>/<int:count>", views.amixed),
    path("fails/<str:name>", views.fails),
    path("plain/fails/<str:name>", views.plain_fails),
    path("upload/<str:name>/<int:count>", csrf_exempt(views.gated)),
    path("aupload/<str:name>/<int:count>", csrf_exempt(views.amixed)),
    path("small/<str:name>", views.small),
    path("whoami", views.whoami),
]

#: Views that answer each user with its own name, without and with an entry for each.
urlpatterns += [
    path(f"{kind}/{word}", PRIVATE[kind](cache_stream(60, per_user=word == "keyed"), []))
    for kind in ("generic", "viewset")
    for word in ("guarded", "keyed")
]
