"""What the shop sells."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """One order."""

    year = models.IntegerField()
    customer = models.CharField(max_length=100)
    total = models.DecimalField(max_digits=10, decimal_places=2)
