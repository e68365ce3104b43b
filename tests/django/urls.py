"""The routes of the project."""

from __future__ import annotations

from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from tests.django import views

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
