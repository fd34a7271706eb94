"""The languages in which customers are told, for every channel.

English stands in the templates and in the code, as gettext's msgids; each other language is one ``.po`` file here, read when a
process starts: there is no build step, and a fresh clone and the wheel hold the same files. To add a language is to add its file;
``catalogue.cfg`` says where Babel finds what there is to translate::

    pybabel extract -F worker/channels/wording/catalogue.cfg -o messages.pot worker/channels
    pybabel update -N -i messages.pot -o worker/channels/wording/fr.po -l fr
"""
