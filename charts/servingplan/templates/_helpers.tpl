{{- define "servingplan.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "servingplan.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "servingplan.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "servingplan.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The names of cluster-scoped objects contain the release's namespace too, so that two releases of one name do not collide. */}}
{{- define "servingplan.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "servingplan.fullname" .) -}}
{{- end -}}

{{/* By digest where there is one; a tag beside it is for people. */}}
{{- define "servingplan.image" -}}
{{- if .Values.image.digest -}}
{{- .Values.image.repository }}{{ with .Values.image.tag }}:{{ . }}{{ end }}@{{ .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "servingplan.selectorLabels" -}}
app.kubernetes.io/name: {{ include "servingplan.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "servingplan.labels" -}}
{{ include "servingplan.selectorLabels" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "servingplan.serviceAccountName" -}}
{{- default (include "servingplan.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "servingplan.subjects" -}}
- kind: ServiceAccount
  name: {{ include "servingplan.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{/* What the operator writes in the namespaces of its plans, and reads in these alone. It deletes no ConfigMap, but where the
     API server has OwnerReferencesPermissionEnforcement, setting the owner of one needs the right to delete it. */}}
{{- define "servingplan.writeRules" -}}
- apiGroups: [servingplan.dev]
  resources: [llmservingplans, llmservingplans/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
{{- if .Values.leaderWorkerSets.enabled }}
- apiGroups: [leaderworkerset.x-k8s.io]
  resources: [leaderworkersets]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
{{- if .Values.kueue.enabled }}
- apiGroups: [kueue.x-k8s.io]
  resources: [localqueues]
  verbs: [get, list, watch]
{{- end }}
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end -}}
