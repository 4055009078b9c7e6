from __future__ import annotations

from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from django_srq import queues
from shop.forms import OrderForm
from shop.models import Order


def orders(request: HttpRequest) -> HttpResponse:
    """The orders, and a form for another one."""
    form = OrderForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        place(form)
        return redirect("orders")
    return render(request, "shop/orders.html", {"form": form, "orders": Order.objects.order_by("-pk")[:50]})


@transaction.atomic
def place(form: OrderForm) -> None:
    """Save the order, and put it into the queue when the transaction is committed."""
    order: Order = form.save()
    order.uid = queues["orders"].put_on_commit({"order": order.pk})
    order.save()


@require_POST
async def note(request: HttpRequest) -> HttpResponse:
    """Put a line of text into the queue ``test``. An async view uses the connections of its event loop."""
    if "text" not in request.POST:
        return HttpResponseBadRequest("text is missing", content_type="text/plain")
    uid = await queues["test"].aput(request.POST["text"])
    return HttpResponse(uid, status=202, content_type="text/plain")
