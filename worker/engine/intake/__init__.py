"""Intake: from an uploaded file to a model in memory, without trusting the file.

    file ──vet──▶ Vetted (config upgraded and on the allow-list, weights in a checked HDF5 file)
         ──open_model──▶ keras.Model

Only `uploads` loads Keras.
"""
