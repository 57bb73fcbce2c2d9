# Who may do what in the bucket. Nobody of these may delete an object or a version of the scans.
locals {
  roles = {
    # Tasks that open and publish runs and see what arrives: read scans, read and add versions of data
    # and models. A stage's own pod reaches no bucket.
    runner = {
      service_accounts = ["airflow-worker", "airflow-triggerer"]
      read             = ["incoming", "dvc", "logs"]
      write            = ["dvc", "logs"]
      delete           = []
    }
    # Airflow itself: the logs of its tasks.
    airflow = {
      service_accounts = ["airflow-api-server", "airflow-scheduler"]
      read             = ["logs"]
      write            = ["logs"]
      delete           = []
    }
    # The MLflow server, which alone touches what it stores.
    mlflow = {
      service_accounts = ["mlflow"]
      read             = ["mlflow"]
      write            = ["mlflow"]
      delete           = ["mlflow"]
    }
  }

  associations = merge([
    for role, facts in local.roles : { for account in facts.service_accounts : account => role }
  ]...)
}

resource "aws_iam_role" "pod" {
  for_each           = local.roles
  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.pods.json
}

data "aws_iam_policy_document" "pods" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

resource "aws_eks_pod_identity_association" "pod" {
  for_each        = local.associations
  cluster_name    = var.cluster
  namespace       = var.namespace
  service_account = each.key
  role_arn        = aws_iam_role.pod[each.value].arn
}

resource "aws_iam_role_policy" "bucket" {
  for_each = local.roles
  name     = "bucket"
  role     = aws_iam_role.pod[each.key].id
  policy   = data.aws_iam_policy_document.bucket[each.key].json
}

data "aws_iam_policy_document" "bucket" {
  for_each = local.roles

  statement {
    sid       = "List"
    actions   = ["s3:ListBucket", "s3:ListBucketVersions"]
    resources = [aws_s3_bucket.data.arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = flatten([for prefix in each.value.read : ["${prefix}/*", prefix]])
    }
  }

  # Whether the bucket keeps versions, which is asked before the versions are listed.
  statement {
    sid       = "Ask"
    actions   = ["s3:GetBucketVersioning", "s3:GetBucketLocation"]
    resources = [aws_s3_bucket.data.arn]
  }

  statement {
    sid       = "Read"
    actions   = ["s3:GetObject", "s3:GetObjectVersion"]
    resources = [for prefix in each.value.read : "${aws_s3_bucket.data.arn}/${prefix}/*"]
  }

  statement {
    sid       = "Write"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload"]
    resources = [for prefix in each.value.write : "${aws_s3_bucket.data.arn}/${prefix}/*"]
  }

  dynamic "statement" {
    for_each = length(each.value.delete) > 0 ? [each.value.delete] : []

    content {
      sid       = "Delete"
      actions   = ["s3:DeleteObject"]
      resources = [for prefix in statement.value : "${aws_s3_bucket.data.arn}/${prefix}/*"]
    }
  }

  statement {
    sid       = "Key"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.data.arn]

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${var.region}.amazonaws.com"]
    }
  }
}

# For whoever brings scans, a PACS gateway for example: it may add, and neither read nor replace history.
resource "aws_iam_policy" "sender" {
  name        = "${var.name}-sender"
  description = "Puts scans into incoming/, nothing else"
  policy      = data.aws_iam_policy_document.sender.json
}

data "aws_iam_policy_document" "sender" {
  statement {
    sid       = "Add"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload"]
    resources = ["${aws_s3_bucket.data.arn}/incoming/*"]
  }

  statement {
    sid = "Key"
    # An upload in parts is put together by decrypting them.
    actions   = ["kms:GenerateDataKey", "kms:Decrypt"]
    resources = [aws_kms_key.data.arn]

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${var.region}.amazonaws.com"]
    }
  }
}
