"""The forms of the status view."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from django_srq.queue.envelope import is_envelope
from django_srq.status.verdicts import Pause
from django_srq.values import LONGEST_DELAY


class PauseForm(forms.Form):
    reason = forms.CharField(label=gettext_lazy("Reason"), max_length=200, required=False)
    until = forms.DateTimeField(
        label=gettext_lazy("Until"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}),
    )

    def __init__(self, *args: Any, present: Pause | None, **options: Any) -> None:
        """present: the pause in force, which the form changes."""
        super().__init__(*args, **options)
        self.initial = _initial(present) if present else {}
        zone = timezone.get_current_timezone_name()
        help_text = _("Leave blank to pause until somebody resumes the queue. Time zone: %s.")
        self.fields["until"].help_text = help_text % zone

    def clean_until(self) -> Any:
        until = self.cleaned_data["until"]
        if until is not None and until <= timezone.now():
            raise forms.ValidationError(_("This time is in the past."))
        return until


def _initial(present: Pause) -> dict[str, str]:
    until = present.until and timezone.localtime(present.until)
    # The format of browsers. Django reads a time without a zone in the current time zone, as it is written here.
    return {"reason": present.reason, "until": f"{until:%Y-%m-%dT%H:%M}" if until else ""}


class PutForm(forms.Form):
    payload = forms.CharField(
        label=gettext_lazy("Payload"), widget=forms.Textarea(attrs={"rows": 8, "spellcheck": "false"}), strip=False
    )
    delay = forms.FloatField(
        label=gettext_lazy("Delay in seconds"), min_value=0, max_value=LONGEST_DELAY, required=False
    )

    def __init__(self, *args: Any, raw: bool, of_tasks: bool, **options: Any) -> None:
        """raw: the payload is the text itself; otherwise it is JSON. of_tasks: the JSON of a task."""
        super().__init__(*args, **options)
        self._raw, self._of_tasks = raw, of_tasks
        if of_tasks:
            example = '{"task": "shop.tasks.welcome", "args": [17], "kwargs": {}}'
            self.fields["payload"].help_text = _("A task as JSON, such as %s") % example
        elif not raw:
            self.fields["payload"].help_text = _('JSON, such as {"order": 17}')

    def clean_payload(self) -> Any:
        text: str = self.cleaned_data["payload"]
        if self._raw:
            return text.replace("\r\n", "\n")  # browsers send every line break as \r\n
        try:
            payload = json.loads(text)
        except ValueError as error:
            raise forms.ValidationError(_("This is not valid JSON: %s") % error) from None
        if self._of_tasks and not is_envelope(payload):
            raise forms.ValidationError(_("This is no task: it needs the fields task, args and kwargs."))
        return payload
