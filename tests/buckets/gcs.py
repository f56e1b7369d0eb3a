"""Google's object store as `gcp-storage-emulator` plays it, with the calls of the XML interface that it lacks.

    python gcs.py PORT BUCKET

The emulator keeps the objects; what is added here follows https://cloud.google.com/storage/docs/xml-api: lists and
removals, and the headers that tell an object's version with its content.
"""

import sys
from email.utils import formatdate
from http import HTTPStatus
from xml.sax.saxutils import escape

from gcp_storage_emulator import server
from gcp_storage_emulator.handlers import objects


def entity(obj):
    return f'"{obj["md5Hash"]}"'


def upload(request, response, storage):
    objects.xml_upload(request, response, storage)
    if response.status == HTTPStatus.OK:
        obj = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["ETag"] = entity(obj)
        response["x-goog-generation"] = str(obj["generation"])


def download(request, response, storage):
    objects.download(request, response, storage)
    if response.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        obj = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["ETag"] = entity(obj)
        response["x-goog-generation"] = str(obj["generation"])
        response["Last-Modified"] = formatdate(usegmt=True)


def delete(request, response, storage):
    response.status = HTTPStatus.NO_CONTENT
    objects.delete(request, response, storage)


def listed(request, response, storage):
    prefix = request.query.get("prefix", [""])[0]
    found = storage.get_file_list(request.params["bucket_name"], prefix, None)
    found = found[0] if isinstance(found, tuple) else found
    items = "".join(
        f"<Contents><Key>{escape(obj['name'])}</Key><Size>{obj['size']}</Size>"
        f"<LastModified>{obj['timeCreated']}</LastModified><ETag>{escape(entity(obj))}</ETag></Contents>"
        for obj in found
    )
    response["Content-Type"] = "application/xml"
    response.write_file(f"<ListBucketResult>{items}</ListBucketResult>".encode(), content_type=None)


bucket = r"^/(?P<bucket_name>[-.\w]+)"
ours = (
    (bucket + r"$", {server.GET: listed}),
    (bucket + r"/(?P<object_id>.+)$", {server.GET: download, server.PUT: upload, server.DELETE: delete}),
)
server.HANDLERS = ours + server.HANDLERS
server.create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket=sys.argv[2]).run()
