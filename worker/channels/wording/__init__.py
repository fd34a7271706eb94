"""The languages of messages, for every channel and for the web pages.

English is in the templates and in the code, as gettext's msgids. Each other language is one ``.po`` file in this folder. A process
reads the files when it starts, so there is no build step. To add a language, add its file. ``catalogue.cfg`` tells Babel where
the texts to translate are::

    pybabel extract -F worker/channels/wording/catalogue.cfg -o messages.pot worker
    pybabel update -N -i messages.pot -o worker/channels/wording/fr.po -l fr
"""
