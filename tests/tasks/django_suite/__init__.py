"""Django's own tests of its task backends, for ours: ``python -m tests.tasks.django_suite``, or ``make django-tasks``.

They come from the source distribution of the Django that is installed, which pip downloads: the wheel has no tests.
"""
