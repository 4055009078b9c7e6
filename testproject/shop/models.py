from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order of a customer; the consumer handles it."""

    uid = models.CharField(max_length=36, unique=True, null=True)  # noqa: DJ001 (unknown until it is put)
    product = models.CharField(max_length=100)
    quantity = models.PositiveIntegerField(default=1)
    ordered_at = models.DateTimeField(auto_now_add=True)
    handled_at = models.DateTimeField(null=True, blank=True)
    deliveries = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.product}"
