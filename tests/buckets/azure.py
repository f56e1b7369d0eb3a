"""Makes a container in Azurite, and prints the key of its account: both are the same everywhere, and public.

    python azure.py ENDPOINT CONTAINER

The request is signed as https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key says.
"""

import base64
import hashlib
import hmac
import sys
import urllib.request
from email.utils import formatdate

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

endpoint, container = sys.argv[1:]
headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
# The twelve empty lines are the standard headers, of which there are none.
text = "PUT" + "\n" * 12 + lines + f"/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container"
signature = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"
urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{container}?restype=container", headers=headers, method="PUT"))
print(KEY)
