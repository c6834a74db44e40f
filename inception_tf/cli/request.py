"""The best classes of photographs, asked of a server: TensorFlow Serving or `inception-tf serve`.

A bad file is named at the end, not fatal. By REST this needs neither TensorFlow nor Keras.
"""

from inception_tf.cli.outcome import Outcome

KERAS = False


def add_arguments(parser):
    parser.add_argument("address", metavar="HOST:PORT", help="of its REST port, or with --grpc of its gRPC port")
    parser.add_argument("model", help="the model's name on the server")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, patterns or directories")
    parser.add_argument("--grpc", action="store_true", help="gRPC, not REST")
    parser.add_argument(
        "--signature", default="predict_image_bytes", help="predict_image_bytes or classify (predict_image_bytes)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=int, help="of the model (the latest)")
    which.add_argument("--label", help="the label of a version")
    parser.add_argument("--timeout", type=float, default=30, metavar="S", help="seconds for one attempt (30)")
    parser.add_argument("--retries", type=int, default=3, metavar="N", help="attempts after the first (3)")
    parser.add_argument("--parallel", type=int, default=8, metavar="N", help="requests at once (8)")


def run(args):
    from inception_tf import tables
    from inception_tf.images.files import find_images
    from inception_tf.quiet import start_tensorflow
    from inception_tf.serving.client import request

    paths = find_images(args.images)
    if args.grpc:
        start_tensorflow()
    options = {name: getattr(args, name) for name in ("grpc", "signature", "version", "label")}
    options |= {name: getattr(args, name) for name in ("timeout", "retries", "parallel")}
    answers = request(args.address, args.model, paths, **options)
    rows, data = [], {"images": [], "failed": []}
    for path, answer in answers.items():
        if answer.error:
            data["failed"].append({"image": str(path), "error": answer.error})
            continue
        rows += [(path if i == 0 else "", name, f"{score:.4f}") for i, (name, score) in enumerate(answer.classes)]
        classes = [{"name": name, "score": score} for name, score in answer.classes]
        data["images"].append({"image": str(path), "classes": classes})
    text = tables.render(rows, ("image", "class", "score"), "<<>")
    if data["failed"]:
        lines = [f"  {failed['image']}: {failed['error']}" for failed in data["failed"]]
        text += f"\n\n{len(lines)} of {len(paths)} images were not answered:\n" + "\n".join(lines)
    return Outcome(text.strip(), data, 1 if data["failed"] else 0)
