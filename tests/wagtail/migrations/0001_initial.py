from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("wagtailcore", "__first__")]

    operations = [
        migrations.CreateModel(
            name="Article",
            fields=[
                (
                    "page_ptr",
                    models.OneToOneField("wagtailcore.Page", models.CASCADE, parent_link=True, primary_key=True),
                ),
                ("text", models.TextField()),
            ],
            bases=["wagtailcore.page"],
        )
    ]
