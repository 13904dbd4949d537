"""Annotated data sets in bulk: a plan in, images with masks, boxes and a manifest out.

plan -> what is asked for; sampling -> anatomy and lesions of one image; drawing -> images, checked; copies -> what
tells near-copies of training images; writing -> one part's files; job -> all parts, by several processes, resumed;
cluster -> the same by several machines; tables -> COCO, YOLO, manifest, summary.
"""
