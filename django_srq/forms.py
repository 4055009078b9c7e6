"""What people write into the status view."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy


class PauseForm(forms.Form):
    reason = forms.CharField(label=gettext_lazy("Reason"), max_length=200, required=False)
    until = forms.DateTimeField(
        label=gettext_lazy("Until"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}),
        help_text=gettext_lazy("Empty: until it is resumed."),
    )

    def clean_until(self) -> Any:
        until = self.cleaned_data["until"]
        if until is not None and until <= timezone.now():
            raise forms.ValidationError(_("This moment is over."))
        return until


class PutForm(forms.Form):
    payload = forms.CharField(
        label=gettext_lazy("Payload"), widget=forms.Textarea(attrs={"rows": 8, "spellcheck": "false"}), strip=False
    )
    delay = forms.FloatField(label=gettext_lazy("Delay in seconds"), min_value=0, max_value=10**9, required=False)

    def __init__(self, *args: Any, raw: bool, **options: Any) -> None:
        """raw: the payload is the text itself, else it is JSON."""
        super().__init__(*args, **options)
        self._raw = raw
        if not raw:
            self.fields["payload"].help_text = _('JSON, such as {"order": 17}')

    def clean_payload(self) -> Any:
        text: str = self.cleaned_data["payload"]
        if self._raw:
            return text.replace("\r\n", "\n")  # as browsers send every end of a line
        try:
            return json.loads(text)
        except ValueError as error:
            raise forms.ValidationError(_("This is no JSON: %s") % error) from None
