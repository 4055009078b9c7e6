from __future__ import annotations

import os
import time
from typing import Any

from django.conf import settings
from django.db.models import F
from django.utils import timezone

from django_srq import Item
from shop.models import Order


def handle_order(payload: dict[str, Any], item: Item) -> None:
    """Record that an order was handled, only once: the item may be delivered more than once."""
    order = Order.objects.get(pk=payload["order"])
    Order.objects.filter(pk=order.pk).update(deliveries=F("deliveries") + 1)
    if order.product == os.environ.get("SHOP_SLOW_PRODUCT") and item.deliveries < 3:
        be_slow()
    Order.objects.filter(pk=order.pk, handled_at=None).update(handled_at=timezone.now())


def be_slow() -> None:
    """Sleep, for the demonstration, which kills this process long before the end."""
    (settings.BASE_DIR / "slow.pid").write_text(str(os.getpid()))
    time.sleep(3600)
