"""ChatFlow on AWS as code: the CloudFormation templates, and what an instance runs. Manual: ``docs/deployment.rst``.

A module makes the resources of one concern, as plain dictionaries in CloudFormation's own words; :mod:`.template` puts
them together. Nothing here makes a call to AWS.
"""
