"""Fine-tuning as a plain Keras library: no Celery, no HTTP, no SQL, no settings.

    canonical model folder --load--> source --cut--> backbone --head--> model --phases--> results folder

Nothing is imported here: who needs only the checks of a model file gets them without TensorFlow.
"""
