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

{{/* The namespaces whose plans are managed, as a JSON list: without a list, the release's own. */}}
{{- define "servingplan.namespaces" -}}
{{- .Values.namespaces | default (list .Release.Namespace) | toJson -}}
{{- end -}}

{{/* Whether the plans of all namespaces are managed: something, or nothing. */}}
{{- define "servingplan.everywhere" -}}
{{- if has "*" (include "servingplan.namespaces" . | fromJsonArray) }}yes{{ end -}}
{{- end -}}

{{/* What the operator writes in the namespaces of its plans, and reads in these alone. It deletes no ConfigMap, but where the
     API server has OwnerReferencesPermissionEnforcement, setting the owner of one needs the right to delete it. */}}
{{- define "servingplan.writeRules" -}}
- apiGroups: [servingplan.dev]
  resources: [llmservingplans, llmservingplans/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, patch, delete]
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
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
{{- if .Values.leaderWorkerSets.enabled }}
- apiGroups: [leaderworkerset.x-k8s.io]
  resources: [leaderworkersets]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
{{- if .Values.dra.enabled }}
- apiGroups: [resource.k8s.io]
  resources: [resourceclaimtemplates]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
{{- if .Values.kueue.enabled }}
- apiGroups: [kueue.x-k8s.io]
  resources: [localqueues]
  verbs: [list, watch]
{{- end }}
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* The pods of the pages have a name of their own, so that nothing that selects the operator's finds them. */}}
{{- define "servingplan.uiSelectorLabels" -}}
app.kubernetes.io/name: {{ include "servingplan.name" . }}-ui
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "servingplan.uiLabels" -}}
{{ include "servingplan.uiSelectorLabels" . }}
app.kubernetes.io/component: ui
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The command that lets the plans of this release go. */}}
{{- define "servingplan.uninstallCommand" -}}
servingplan uninstall {{ if include "servingplan.everywhere" . }}--all{{ else }}-n {{ join " -n " (include "servingplan.namespaces" . | fromJsonArray) }}{{ end -}}
{{- end -}}

{{/* The guard's pod has a name of its own, so that nothing that selects the operator's finds it. */}}
{{- define "servingplan.guardLabels" -}}
app.kubernetes.io/name: {{ include "servingplan.name" . }}-uninstall
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: uninstall-guard
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Which plans there are, and what bounds them: the same for the operator and for the pages. */}}
{{- define "servingplan.plansEnv" -}}
- name: SERVINGPLAN_POOL_KINDS
  value: {{ $kinds := list }}{{ range .Values.poolKinds }}{{ $kinds = append $kinds (printf "%s.%s" .kind .group) }}{{ end }}{{ join "," $kinds | quote }}
- name: SERVINGPLAN_NAMESPACES
  value: {{ join "," (without (include "servingplan.namespaces" . | fromJsonArray) "*") | quote }}
- name: SERVINGPLAN_CATALOGUE_NAMESPACE
  value: {{ if .Values.catalogues.enabled }}{{ .Release.Namespace | quote }}{{ else }}""{{ end }}
- name: SERVINGPLAN_NAMESPACE_BUDGETS
  value: {{ $budgets := list }}{{ range $namespace, $dollars := .Values.namespaceBudgets }}{{ $budgets = append $budgets (printf "%s=%v" $namespace $dollars) }}{{ end }}{{ join "," $budgets | quote }}
{{- end -}}

{{/* What is read in the whole cluster. */}}
{{- define "servingplan.clusterReadRules" -}}
# All pods, since GPUs that others hold are not free. All plans, since no two may size one pool.
- apiGroups: [""]
  resources: [nodes, pods]
  verbs: [list, watch]
- apiGroups: [servingplan.dev]
  resources: [llmservingplans]
  verbs: [get, list, watch]
{{- if .Values.dra.enabled }}
# Claims of all namespaces, since devices that others hold are not free.
- apiGroups: [resource.k8s.io]
  resources: [resourceslices, resourceclaims, deviceclasses]
  verbs: [list, watch]
{{- end }}
{{- if .Values.kueue.enabled }}
# The quota behind the queues that plans name.
- apiGroups: [kueue.x-k8s.io]
  resources: [clusterqueues, cohorts, resourceflavors]
  verbs: [list, watch]
{{- end }}
{{- end -}}

{{/* What the pages read in the namespaces of plans: that which `servingplan.writeRules` lets the operator read. */}}
{{- define "servingplan.uiPlanRules" -}}
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [list, watch]
{{- if .Values.leaderWorkerSets.enabled }}
- apiGroups: [leaderworkerset.x-k8s.io]
  resources: [leaderworkersets]
  verbs: [list, watch]
{{- end }}
{{- if .Values.dra.enabled }}
- apiGroups: [resource.k8s.io]
  resources: [resourceclaimtemplates]
  verbs: [list, watch]
{{- end }}
{{- if .Values.kueue.enabled }}
- apiGroups: [kueue.x-k8s.io]
  resources: [localqueues]
  verbs: [list, watch]
{{- end }}
{{- end -}}
