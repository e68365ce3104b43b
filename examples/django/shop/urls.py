"""The routes of the example."""

from __future__ import annotations

from django.urls import path

from shop import views

urlpatterns = [
    path("orders/<int:year>.csv", views.Orders.as_view({"get": "export"})),
    path("async/orders/<int:year>.csv", views.export),
    path("plain/orders/<int:year>.csv", views.uncached),
    path("plain/async/orders/<int:year>.csv", views.async_uncached),
]
