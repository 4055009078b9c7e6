from __future__ import annotations

from django.db import transaction
from django.test import TestCase, TransactionTestCase

from django_srq import queues
from django_srq.testing import QueueTestMixin, run_all
from shop.models import Order


class OrderTests(QueueTestMixin, TransactionTestCase):
    def test_an_order_is_put_and_handled(self) -> None:
        self.client.post("/", {"product": "tea", "quantity": 2})
        order = Order.objects.get()
        (item,) = run_all("orders")
        self.assertEqual((item.uid, item.payload), (order.uid, {"order": order.pk}))
        order.refresh_from_db()
        self.assertIsNotNone(order.handled_at)

    def test_an_invalid_order_is_not_put(self) -> None:
        response = self.client.post("/", {"product": "", "quantity": 2})
        self.assertContains(response, "This field is required")
        self.assertEqual(len(queues["orders"]), 0)

    def test_an_order_that_is_not_saved_is_not_put(self) -> None:
        with self.assertRaises(RuntimeError), transaction.atomic():
            self.client.post("/", {"product": "tea", "quantity": 2})
            raise RuntimeError
        self.assertEqual(len(queues["orders"]), 0)


class NoteTests(QueueTestMixin, TestCase):
    def test_an_async_view_puts(self) -> None:
        response = self.client.post("/notes/", {"text": "remember the milk"})
        self.assertEqual(response.status_code, 202)
        (item,) = queues["test"].items()
        self.assertEqual((item.uid, item.payload), (response.content.decode(), b"remember the milk"))

    def test_a_note_without_text_is_refused(self) -> None:
        self.assertEqual(self.client.post("/notes/").status_code, 400)
        self.assertEqual(len(queues["test"]), 0)

    async def test_under_asgi(self) -> None:
        responses = [await self.async_client.post("/notes/", {"text": text}) for text in ("one", "two")]
        self.assertEqual(
            [item.uid async for item in queues["test"].aitems()], [response.content.decode() for response in responses]
        )


class HandlerTests(QueueTestMixin, TestCase):
    def test_a_second_delivery_changes_nothing(self) -> None:
        order = Order.objects.create(product="tea")
        for _ in range(2):
            queues["orders"].put({"order": order.pk})
        run_all("orders", limit=1)
        order.refresh_from_db()
        first = order.handled_at
        run_all("orders")
        order.refresh_from_db()
        self.assertEqual((order.handled_at, order.deliveries), (first, 2))
