"""Action units, pose, gaze, emotions (Cheong, 2023).

Paper    https://doi.org/10.1007/s42761-023-00191-4; the multitask network is newer than it
Weights  py-feat/face_multitask_v2 (face_multitask_v28.safetensors, 20 action units and 7 emotions) reads the faces,
         py-feat/retinaface_r34 finds them; or `pyfeat:FOLDER` with both files in it. No identity network is loaded.
Licence  Code MIT. The multitask weights are for non-commercial research alone, by py-feat's own notice
         (LICENSES/PYFEAT-V2.md): their ConvNeXt V2 and their teacher img2pose are CC BY-NC 4.0, Gaze360 and
         ETH-XGaze forbid commercial models, and their authors do not vouch for what else the training corpora ask.
         RetinaFace's card says MIT; its corpus, WIDER FACE, is non-commercial.
Columns  time_s (from the clip's start: gaps show), confidence (of the box, 0-1), face_x, face_y (its middle),
         face_width, face_height (all four as shares of the frame); AU01 ... AU43 (0-1); pose_pitch, roll, yaw (rad; up,
         to the subject's right), pose_x, y, z (the network's units); gaze_pitch, gaze_yaw (rad); x_0 ... y_67 (68
         landmarks from the middle of the box, in its longer sides); the seven emotions (sum 1); valence, arousal
         (-1 to 1). Nothing depends on the size of the picture, but for what is lost when it is scaled down.
Tracking The face that covers most pixels over the clip, or with `track=speaking` the one whose lips move most. Boxes
         of one face overlap from frame to frame; who it is, is not checked: after a cut another face in the same
         place is taken for it. Frames without that face have no row, and are counted.
Traps    `import feat` sets OMP_NUM_THREADS and a detector switches autograd off, so both happen in a process of their
         own. RetinaFace shares its candidates among the frames of a batch; here each frame keeps all of its own.
"""

from dataclasses import replace

from msa.errors import BackboneError
from msa.extract.backbone import BackboneSpec, Weights
from msa.extract.encoders import face
from msa.extract.encoders.face import ABOUT, OPTIONS
from msa.types import Modality

SPECS = {
    "multitask": BackboneSpec(
        modality=Modality.FACE,
        weights="pyfeat:py-feat/face_multitask_v2",
        options=OPTIONS,
        about=ABOUT,
        dtype="float32",  # seconds, angles and shares in one row
        batch=1,  # clips; a batch that fails would be taken again, and counted again
        licence="non-commercial research (multitask weights: ConvNeXt V2 CC BY-NC 4.0, Gaze360, ETH-XGaze), MIT (code)",
        source="https://github.com/cosanlab/py-feat",
    ),
}


def spec(modality: Modality, where: str) -> BackboneSpec:
    """Return the recipe for `where`: `pyfeat:FOLDER`, or `pyfeat:` and the repository on the hub."""
    if modality is not Modality.FACE:
        raise BackboneError(
            f"{where}: py-feat reads faces, not {modality}", fix=f"name another backbone for {modality}"
        )
    return replace(SPECS["multitask"], weights=where)


def load(spec: BackboneSpec, weights: Weights, device: str) -> face.FaceEncoder:
    """Start py-feat in its process, with the two files that were resolved."""
    from msa.extract.weights import face_files

    reader, finder = face_files(spec.weights.partition(":")[2], weights.revision)
    return face.load(spec, reader, finder, device)
